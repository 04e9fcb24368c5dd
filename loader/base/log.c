/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE 8192 /* bytes of a message; there may be a path in it */

/* Of the process, as stderr is. */
static enum { PLAIN, TEXT, JSON } form;

void kpod_log_start(bool json)
{
	form = json ? JSON : TEXT;
	setvbuf(stderr, NULL, _IOLBF, BUFSIZ); /* a line is one write */
}

/* Bytes that JSON wants escaped, or that are not ASCII, byte by byte. */
static void print_escaped(const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(stderr, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(stderr, "\\u%04x", c);
		else
			fputc(c, stderr);
	}
}

/* Threads have lines too. */
static void print(const char *level, const char *format, va_list args)
{
	char message[LINE], at[32];
	struct timespec now;
	struct tm parts;
	size_t size;

	vsnprintf(message, sizeof(message), format, args);
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &parts);
	size = strftime(at, sizeof(at), "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(at + size, sizeof(at) - size, ".%03ldZ", now.tv_nsec / 1000000);
	flockfile(stderr);
	if (form == JSON) {
		fprintf(stderr,
			"{\"time\":\"%s\",\"level\":\"%s\",\"program\":\"kpod-loader\","
			"\"message\":\"",
			at, level);
		print_escaped(message);
		fputs("\"}\n", stderr);
	} else if (form == TEXT) {
		fprintf(stderr, "%s %s kpod-loader: %s\n", at, level, message);
	} else {
		fprintf(stderr, "kpod-loader: %s\n", message);
	}
	funlockfile(stderr);
}

#define PRINT(level)                                                                               \
	do {                                                                                       \
		va_list args;                                                                      \
                                                                                                   \
		va_start(args, format);                                                            \
		print(level, format, args);                                                        \
		va_end(args);                                                                      \
	} while (0)

void kpod_log(const char *format, ...)
{
	PRINT("error");
}

void kpod_warn(const char *format, ...)
{
	PRINT("warning");
}

void kpod_info(const char *format, ...)
{
	PRINT("info");
}
