/* SPDX-License-Identifier: Apache-2.0 */
/* Attaches the program of an object file to a tracepoint; waits for the end of its input. */
#include <stdio.h>
#include <unistd.h>

#include <bpf/libbpf.h>

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 3 ? bpf_object__open_file(argv[1], NULL) : NULL;
	struct bpf_program *program = object ? bpf_object__next_program(object, NULL) : NULL;
	char byte;

	if (!program || bpf_program__set_attach_target(program, 0, argv[2]) ||
	    bpf_object__load(object) || !bpf_program__attach(program)) {
		fputs("usage: empty OBJECT TRACEPOINT, both of which must be there\n", stderr);
		return 1;
	}
	return read(0, &byte, 1) < 0;
}
