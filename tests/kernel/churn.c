/* SPDX-License-Identifier: Apache-2.0 */
/*
 * churn FILE (KIND TIMES)...: work that collectors count, a known number of times, each kind
 * between two gates; linked statically, and locked into memory, so that it does nothing else. FILE
 * is the caller's alone, and on a disk.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gate.h"

#define PAGE 4096
#define PAGES 256 /* of FILE, at first */

static char *self, *file;
static char page[PAGE] __attribute__((aligned(PAGE)));

static int open_file(int flags)
{
	int fd = open(file, flags, 0600);

	must(fd >= 0, file);
	return fd;
}

/* The file's pages are on the disk, and in the page cache one by one. */
static void make_file(void)
{
	int fd = open_file(O_RDWR | O_CREAT);

	for (int i = 0; i < PAGES; i++)
		must(pwrite(fd, page, PAGE, (off_t)i * PAGE) == PAGE, "pwrite");
	must(!fsync(fd), "fsync");
	close(fd);
}

static void read_pages(int times)
{
	int fd = open_file(O_RDONLY);

	for (int i = 0; i < times; i++)
		must(pread(fd, page, PAGE, (off_t)(i % PAGES) * PAGE) == PAGE, "pread");
	close(fd);
}

/* Pages that the file has not had yet. */
static void write_pages(int times)
{
	int fd = open_file(O_WRONLY);

	for (int i = 0; i < times; i++)
		must(pwrite(fd, page, PAGE, (off_t)(PAGES + i) * PAGE) == PAGE, "pwrite");
	close(fd);
}

/* To the disk, a request each. */
static void write_blocks(int times)
{
	int fd = open_file(O_RDWR | O_DIRECT);

	for (int i = 0; i < times; i++)
		must(pwrite(fd, page, PAGE, (off_t)(i % PAGES) * PAGE) == PAGE, "pwrite");
	close(fd);
}

/* To itself. */
static void send_datagrams(int times)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t size = sizeof(at);

	must(!bind(fd, (void *)&at, size) && !getsockname(fd, (void *)&at, &size), "bind");
	for (int i = 0; i < times; i++) {
		must(sendto(fd, page, 100, 0, (void *)&at, size) == 100, "sendto");
		must(recv(fd, page, PAGE, 0) == 100, "recv");
	}
	close(fd);
}

/* To itself. */
static void connect_sockets(int times)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t size = sizeof(at);

	must(!bind(listener, (void *)&at, size) && !getsockname(listener, (void *)&at, &size) &&
		     !listen(listener, 1),
	     "bind");
	for (int i = 0; i < times; i++) {
		int one = socket(AF_INET, SOCK_STREAM, 0), other;

		must(!connect(one, (void *)&at, size), "connect");
		other = accept(listener, NULL, NULL);
		must(other >= 0, "accept");
		must(send(one, page, 10, 0) == 10 && recv(other, page, 10, 0) == 10, "send");
		close(one);
		close(other);
	}
	close(listener);
}

static void wait_for(pid_t pid)
{
	int status;

	must(pid > 0 && waitpid(pid, &status, 0) == pid && !status, "child");
}

static void fork_processes(int times)
{
	for (int i = 0; i < times; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		wait_for(pid);
	}
}

static pid_t execute(void)
{
	pid_t pid = vfork();

	if (!pid) {
		execl(self, self, NULL);
		_exit(1);
	}
	return pid;
}

static void execute_programs(int times)
{
	for (int i = 0; i < times; i++)
		wait_for(execute());
}

static void touch_pages(int times)
{
	char *at = mmap(NULL, (size_t)times * PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(at != MAP_FAILED, "mmap");
	madvise(at, (size_t)times * PAGE, MADV_NOHUGEPAGE);
	for (int i = 0; i < times; i++)
		at[(size_t)i * PAGE] = 1;
	munmap(at, (size_t)times * PAGE);
}

/* More than the cache has room for, again and again. */
static void read_all(int times)
{
	static char buffer[16 * PAGE];
	int fd = open_file(O_RDONLY);

	for (int i = 0; i < times; i++)
		for (off_t at = 0; pread(fd, buffer, sizeof(buffer), at) > 0; at += sizeof(buffer))
			;
	close(fd);
}

static const struct {
	const char *name;
	void (*run)(int times);
} kinds[] = {
	{"touch", touch_pages},	   {"datagrams", send_datagrams},  {"connections", connect_sockets},
	{"forks", fork_processes}, {"programs", execute_programs}, {"reads", read_pages},
	{"writes", write_pages},   {"blocks", write_blocks},	   {"reclaim", read_all},
};

int main(int argc, char **argv)
{
	self = argv[0];
	if (argc < 4)
		return 0;
	file = argv[1];
	make_file();
	for (int i = 2; i + 1 < argc; i += 2)
		for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
			if (strcmp(argv[i], kinds[k].name))
				continue;
			must(!mlockall(MCL_CURRENT), "mlockall");
			gate();
			kinds[k].run(atoi(argv[i + 1]));
		}
	gate();
	return 0;
}
