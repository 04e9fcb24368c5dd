"""What a cgroup is: enum kpod_cgroup_kind of bpf/classify.h."""

HOST, UNIT, CONTAINER, POD, POD_CONTAINER, MACHINE = range(6)
