/* SPDX-License-Identifier: Apache-2.0 */
/* Attaches the programs of an object file and waits for the end of its standard input. */
#include <stdio.h>
#include <unistd.h>

#include <bpf/libbpf.h>

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 2 ? bpf_object__open_file(argv[1], NULL) : NULL;
	struct bpf_program *program;
	char byte;

	if (!object || bpf_object__load(object)) {
		fputs("empty: cannot load the object file\n", stderr);
		return 1;
	}
	bpf_object__for_each_program (program, object) {
		if (!bpf_program__attach(program)) {
			fputs("empty: cannot attach\n", stderr);
			return 1;
		}
	}
	puts("attached");
	fflush(stdout);
	return read(0, &byte, 1) < 0;
}
