"""Cgroup paths as they are found, and what each is: driver, runtime, QoS, nesting."""

from aggregator.pods.kinds import CONTAINER, HOST, MACHINE, POD, POD_CONTAINER, UNIT

# As loader/cgroups/slots.c has them; test_resolver.py test_the_services_are_the_loaders() compares.
SERVICES = frozenset(
    f"/system.slice/{name}.service"
    for name in (
        *("k3s", "k3s-agent", "rke2-server", "rke2-agent", "k0scontroller", "k0sworker"),
        *("snap.microk8s.daemon-kubelite", "snap.microk8s.daemon-containerd"),
        *("containerd", "crio", "docker"),
    )
) | {"/runtime.slice/containerd.service"}

ID = "0123456789abcdef" * 4
OUTER = "fedcba9876543210" * 4
UID = "12345678-1234-1234-1234-1234567890ab"
U = UID.replace("-", "_")
HASH = "4d66c26f839ed16d7f2bc67063389b92"  # of a static pod's manifest

SYSTEMD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{U}.slice"
BEST = f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{U}.slice"
GUARANTEED = f"/kubepods.slice/kubepods-pod{U}.slice"
CGROUPFS = f"/kubepods/burstable/pod{UID}"
KIND = f"/system.slice/docker-{OUTER}.scope"
KIND_POD = (
    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
    f"kubelet-kubepods-burstable-pod{U}.slice"
)
USER_SLICE = "/user.slice/user-1000.slice"
USER = f"{USER_SLICE}/user@1000.service"
K3S_ROOTLESS = f"{USER}/app.slice/k3s-rootless.service"
MICROK8S = "/system.slice/snap.microk8s.daemon-kubelite.service"

# Nodes that the loader is told of, or finds because its own pod is below them (--cgroup-root).
NODES = (
    KIND,
    f"/docker/{OUTER}",
    f"/machine.slice/libpod-{OUTER}.scope/container",
    f"{USER}/user.slice/libpod-{OUTER}.scope/container",
    "/lxc.payload.node1",
    K3S_ROOTLESS,
)

# (what, path, kind of its slot, pod's uid, container's id or name of the unit or machine)
PATHS = [
    # systemd driver
    ("containerd", f"{SYSTEMD}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    ("best effort", f"{BEST}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    ("guaranteed", f"{GUARANTEED}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    ("CRI-O", f"{SYSTEMD}/crio-{ID}.scope", POD_CONTAINER, UID, ID),
    ("CRI-O guaranteed", f"{GUARANTEED}/crio-{ID}.scope", POD_CONTAINER, UID, ID),
    ("CRI-O and crun on v2", f"{SYSTEMD}/crio-{ID}.scope/container", POD_CONTAINER, UID, ID),
    (
        "conmon is not its container",
        f"{SYSTEMD}/crio-conmon-{ID}.scope",
        *(POD_CONTAINER, UID, f"crio-conmon-{ID}.scope"),
    ),
    ("cri-dockerd", f"{SYSTEMD}/docker-{ID}.scope", POD_CONTAINER, UID, ID),
    ("cri-dockerd best effort", f"{BEST}/docker-{ID}.scope", POD_CONTAINER, UID, ID),
    ("podman as runtime", f"{SYSTEMD}/libpod-{ID}.scope", POD_CONTAINER, UID, ID),
    ("OpenShift", f"{BEST}/crio-{ID}.scope/container", POD_CONTAINER, UID, ID),
    (
        "systemd in a pod",
        f"{SYSTEMD}/cri-containerd-{ID}.scope/init.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    (
        "service of systemd in a pod",
        f"{SYSTEMD}/cri-containerd-{ID}.scope/system.slice/nginx.service",
        *(POD_CONTAINER, UID, ID),
    ),
    (
        "sysbox",
        f"{SYSTEMD}/crio-{ID}.scope/syscont-cgroup-root/init.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    # cgroupfs driver
    ("cgroupfs", f"{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("cgroupfs best effort", f"/kubepods/besteffort/pod{UID}/{ID}", POD_CONTAINER, UID, ID),
    ("cgroupfs guaranteed", f"/kubepods/pod{UID}/{ID}", POD_CONTAINER, UID, ID),
    ("COS of GKE", f"/kubepods/burstable/pod{UID}/{ID}/init", POD_CONTAINER, UID, ID),
    ("cgroupfs CRI-O", f"{CGROUPFS}/crio-{ID}", POD_CONTAINER, UID, ID),
    (
        "cgroupfs conmon",
        f"{CGROUPFS}/crio-conmon-{ID}",
        *(POD_CONTAINER, UID, f"crio-conmon-{ID}"),
    ),
    ("cgroupfs cri-dockerd", f"{CGROUPFS}/{ID}/sub", POD_CONTAINER, UID, ID),
    ("kata", f"{CGROUPFS}/kata_{ID}", POD_CONTAINER, UID, f"kata_{ID}"),
    ("kata's sandbox", f"{SYSTEMD}/kata_overhead", POD_CONTAINER, UID, "kata_overhead"),
    ("Talos", f"{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    (
        "Bottlerocket",
        f"{BEST}/cri-containerd-{ID}.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    # static pods
    ("static", f"/kubepods/besteffort/pod{HASH}/{ID}", POD_CONTAINER, HASH, ID),
    ("static guaranteed", f"/kubepods/pod{HASH}/{ID}", POD_CONTAINER, HASH, ID),
    (
        "static, systemd",
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/"
        f"cri-containerd-{ID}.scope",
        *(POD_CONTAINER, HASH, ID),
    ),
    (
        "static, CRI-O",
        f"/kubepods.slice/kubepods-pod{HASH}.slice/crio-{ID}.scope",
        *(POD_CONTAINER, HASH, ID),
    ),
    (
        "static with a uid of its own",
        f"/kubepods/burstable/podmy-static-uid/{ID}",
        *(POD_CONTAINER, "my-static-uid", ID),
    ),
    (
        "static with a uid of its own, systemd",
        f"/kubepods.slice/kubepods-podmy_static_uid.slice/crio-{ID}.scope",
        *(POD_CONTAINER, "my-static-uid", ID),
    ),
    ("any uid that the kubelet takes", "/kubepods/pod1234/x", POD_CONTAINER, "1234", "x"),
    # what runs beside a pod's containers
    ("a pod's own", SYSTEMD, POD, UID, ""),
    ("a pod's own, cgroupfs", CGROUPFS, POD, UID, ""),
    ("a static pod's own", f"/kubepods/pod{HASH}", POD, HASH, ""),
    # the kubelet's --cgroup-root, and what hosting adds above
    ("cgroup root", f"/kubelet{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    (
        "cgroup root, systemd",
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{U}.slice/"
        f"cri-containerd-{ID}.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    ("LXC", f"/lxc.payload.node1{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("k3s as a service", f"/system.slice/k3s.service{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("k3s' agent", f"/system.slice/k3s-agent.service{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("k0s", f"/system.slice/k0sworker.service{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("k3s without root", f"{K3S_ROOTLESS}{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("MicroK8s", f"{MICROK8S}{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    # a node that is a container
    ("kind", f"{KIND}{KIND_POD}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    ("kind, a pod's own", f"{KIND}{KIND_POD}", POD, UID, ""),
    ("kind, cgroupfs", f"/docker/{OUTER}/kubelet{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    (
        "kind, static",
        f"{KIND}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{HASH}.slice/"
        f"cri-containerd-{ID}.scope",
        *(POD_CONTAINER, HASH, ID),
    ),
    (
        "kind in podman",
        f"/machine.slice/libpod-{OUTER}.scope/container{KIND_POD}/cri-containerd-{ID}.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    (
        "kind without root",
        f"{USER}/user.slice/libpod-{OUTER}.scope/container{KIND_POD}/cri-containerd-{ID}.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    ("minikube", f"{KIND}{SYSTEMD}/docker-{ID}.scope", POD_CONTAINER, UID, ID),
    ("minikube, cgroupfs", f"/docker/{OUTER}{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("k3d", f"{KIND}/kubelet{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("k3d, on a v2 host", f"{KIND}{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("the node's kubelet", f"{KIND}/kubelet.slice/kubelet.service", CONTAINER, "", OUTER),
    ("k3s in its container", f"{KIND}/k3s", CONTAINER, "", OUTER),
    # containers in containers of pods are the outer ones
    ("DinD", f"{SYSTEMD}/cri-containerd-{ID}.scope/docker/{OUTER}", POD_CONTAINER, UID, ID),
    (
        "DinD with systemd",
        f"{SYSTEMD}/cri-containerd-{ID}.scope/system.slice/docker-{OUTER}.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    (
        "buildkit in a pod",
        f"{CGROUPFS}/{ID}/buildkit/{OUTER}",
        *(POD_CONTAINER, UID, ID),
    ),
    (
        "kind in a pod",
        f"{SYSTEMD}/cri-containerd-{ID}.scope{KIND}{KIND_POD.replace(U, 'f' * 8 + U[8:])}/x",
        *(POD_CONTAINER, UID, ID),
    ),
    # a systemd path given to a runtime on cgroupfs
    (
        "colons",
        f"/system.slice/containerd.service/kubepods-burstable-pod{U}.slice:cri-containerd:{ID}",
        *(POD_CONTAINER, UID, ID),
    ),
    (
        "colons at the root",
        f"/kubepods-besteffort-pod{U}.slice:cri-containerd:{ID}",
        *(POD_CONTAINER, UID, ID),
    ),
    ("colons, CRI-O", f"/kubepods-pod{U}.slice:crio:{ID}", POD_CONTAINER, UID, ID),
    ("colons in kind", f"{KIND}/kubepods-pod{U}.slice:cri-containerd:{ID}", POD_CONTAINER, UID, ID),
    (
        "colons, cri-dockerd",
        f"/system.slice/docker.service/kubepods-burstable-pod{U}.slice:docker:{ID}",
        *(POD_CONTAINER, UID, ID),
    ),
    ("colons, docker", f"/system.slice:docker:{ID}", CONTAINER, "", ID),
    # without Kubernetes
    ("docker", f"/system.slice/docker-{ID}.scope", CONTAINER, "", ID),
    ("docker, cgroupfs", f"/docker/{ID}", CONTAINER, "", ID),
    ("docker in its own slice", f"/custom.slice/docker-{ID}.scope", CONTAINER, "", ID),
    ("buildkit", f"/docker/buildkit/{ID}", CONTAINER, "", ID),
    ("podman", f"/machine.slice/libpod-{ID}.scope/container", CONTAINER, "", ID),
    (
        "podman's pod",
        f"/machine.slice/machine-libpod_pod_{OUTER}.slice/libpod-{ID}.scope",
        *(CONTAINER, "", ID),
    ),
    ("podman's pod, cgroupfs", f"/libpod_parent/{OUTER}/libpod-{ID}", CONTAINER, "", ID),
    ("podman, cgroupfs", f"/libpod_parent/libpod-{ID}", CONTAINER, "", ID),
    ("podman's conmon", f"/machine.slice/libpod-conmon-{ID}.scope", UNIT, "", "libpod-conmon-*"),
    ("quadlet", f"/system.slice/web.service/libpod-payload-{ID}", UNIT, "", "web.service"),
    ("nerdctl", f"/system.slice/nerdctl-{ID}.scope", CONTAINER, "", ID),
    ("containerd's ctr", f"/default/{ID}", CONTAINER, "", ID),
    ("ctr with a name", "/default/mynginx", HOST, "", ""),
    ("ECS", f"/ecs/0123456789abcdef0123456789abcdef/{ID}", CONTAINER, "", ID),
    ("Nomad with docker", f"/nomad.slice/docker-{ID}.scope", CONTAINER, "", ID),
    (
        "Nomad's exec",
        "/nomad.slice/share.slice/12345678-1234-1234-1234-1234567890ab.web.scope",
        *(UNIT, "", "12345678-1234-1234-1234-1234567890ab.web.scope"),
    ),
    # machines
    ("LXC 4", "/lxc.payload.web/system.slice/cron.service", MACHINE, "", "web"),
    ("LXC 3", "/lxc/101/ns/system.slice/cron.service", MACHINE, "", "101"),
    ("Incus", "/lxc.payload.prod_db/init.scope", MACHINE, "", "prod_db"),
    ("LXC's monitor", "/lxc.monitor.web", HOST, "", ""),
    ("nspawn", "/machine.slice/systemd-nspawn@c1.service/payload/init.scope", MACHINE, "", "c1"),
    ("machined", "/machine.slice/machine-deb\\x2d12.scope/init.scope", MACHINE, "", "deb-12"),
    (
        "libvirt",
        "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
        *(MACHINE, "", "qemu-1-vm"),
    ),
    ("a pod's name in LXC", f"/lxc.payload.web{CGROUPFS}/{ID}", MACHINE, "", "web"),
    # units
    ("a service", "/system.slice/nginx.service", UNIT, "", "nginx.service"),
    ("kubelet", "/system.slice/kubelet.service", UNIT, "", "kubelet.service"),
    (
        "containerd as a service",
        "/runtime.slice/containerd.service",
        UNIT,
        "",
        "containerd.service",
    ),
    (
        "a template",
        "/system.slice/sshd@7-10.0.0.5:22-10.0.0.6:999.service",
        *(UNIT, "", "sshd@.service"),
    ),
    (
        "a slice of instances",
        "/system.slice/system-getty.slice/getty@tty1.service",
        *(UNIT, "", "getty@.service"),
    ),
    ("a mount of the kubelet's", f"/system.slice/run-r{HASH}.scope", UNIT, "", "run-*"),
    ("systemd-run", "/system.slice/run-u12.service", UNIT, "", "run-*"),
    # login users
    ("a session", f"{USER_SLICE}/session-1.scope", UNIT, "", "user-1000.slice"),
    ("a user's manager", f"{USER}/init.scope", UNIT, "", "user-1000.slice"),
    ("a user's program", f"{USER}/app.slice/app-gnome-term-99.scope", UNIT, "", "user-1000.slice"),
    ("podman without root", f"{USER}/user.slice/libpod-{ID}.scope/container", CONTAINER, "", ID),
    ("docker without root", f"{USER}/app.slice/docker-{ID}.scope", CONTAINER, "", ID),
    (
        "quadlet without root",
        f"{USER}/app.slice/web.service/libpod-payload-{ID}",
        *(CONTAINER, "", ID),
    ),
    (
        "conmon without root",
        f"{USER}/user.slice/libpod-conmon-{ID}.scope",
        *(UNIT, "", "user-1000.slice"),
    ),
    # nobody's: the host
    ("root", "/", HOST, "", ""),
    ("all pods", "/kubepods.slice/kubepods-burstable.slice", HOST, "", ""),
    ("Fargate's tasks", "/ecs/0123456789abcdef0123456789abcdef-1234567890", HOST, "", ""),
]

# Pods for nobody but those who call them so: (what, path, kind of its slot).
FORGED = [
    ("a user's", f"{USER}/pod{UID}/cri-containerd-{ID}.scope", CONTAINER),
    ("a user's kubepods", f"{USER}{CGROUPFS}/{ID}", CONTAINER),
    ("a user's slice", f"{USER}{SYSTEMD}/cri-containerd-{ID}.scope", CONTAINER),
    ("a user's pod of its own", f"{USER}{SYSTEMD}", UNIT),
    ("a user's colons", f"{USER}/kubepods-pod{U}.slice:cri-containerd:{ID}", CONTAINER),
    ("a user's node", f"{USER}/kubelet.slice/kubelet-kubepods.slice/pod{UID}/x", UNIT),
    (
        "a rootless container's",
        f"{USER}/user.slice/libpod-{ID}.scope/container{CGROUPFS}/x",
        CONTAINER,
    ),
    ("a privileged container's", f"/system.slice/docker-{ID}.scope{CGROUPFS}/x", CONTAINER),
    ("a container's", f"/docker/{ID}{KIND_POD}/cri-containerd-{ID}.scope", CONTAINER),
    ("a container's colons", f"/docker/{ID}/kubepods-pod{U}.slice:crio:{ID}", CONTAINER),
    ("a service's", f"/system.slice/web.service{CGROUPFS}/{ID}", UNIT),
    ("a service's colons", f"/system.slice/web.service/kubepods-pod{U}.slice:crio:{ID}", UNIT),
    ("beside the kubelet's root", f"/pod{UID}/{ID}", CONTAINER),
    ("below a slice", f"/system.slice{CGROUPFS}/x", HOST),
    ("like the kubelet's root", f"/kubepods2/pod{UID}/x", HOST),
    ("a node's name, elsewhere", f"/custom.slice{KIND}{CGROUPFS}/x", CONTAINER),
]
