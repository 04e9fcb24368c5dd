"""Cgroup paths as they are found, and what each is: driver, runtime, QoS, nesting."""

from aggregator.pods.resolver import CONTAINER, HOST, POD_CONTAINER, UNIT

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
USER = "/user.slice/user-1000.slice/user@1000.service"

# (what, path, kind of its slot, pod's uid, container's id or unit's name)
PATHS = [
    # systemd driver
    ("containerd", f"{SYSTEMD}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    ("best effort", f"{BEST}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    ("guaranteed", f"{GUARANTEED}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    ("CRI-O", f"{SYSTEMD}/crio-{ID}.scope", POD_CONTAINER, UID, ID),
    ("CRI-O guaranteed", f"{GUARANTEED}/crio-{ID}.scope", POD_CONTAINER, UID, ID),
    ("CRI-O on v2", f"{SYSTEMD}/crio-{ID}.scope/container", POD_CONTAINER, UID, ID),
    (
        "conmon is not its container",
        f"{SYSTEMD}/crio-conmon-{ID}.scope",
        *(POD_CONTAINER, UID, f"crio-conmon-{ID}.scope"),
    ),
    ("cri-dockerd", f"{SYSTEMD}/docker-{ID}.scope", POD_CONTAINER, UID, ID),
    ("cri-dockerd best effort", f"{BEST}/docker-{ID}.scope", POD_CONTAINER, UID, ID),
    ("podman as runtime", f"{SYSTEMD}/libpod-{ID}.scope", POD_CONTAINER, UID, ID),
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
    # cgroupfs driver
    ("cgroupfs", f"{CGROUPFS}/{ID}", POD_CONTAINER, UID, ID),
    ("cgroupfs best effort", f"/kubepods/besteffort/pod{UID}/{ID}", POD_CONTAINER, UID, ID),
    ("cgroupfs guaranteed", f"/kubepods/pod{UID}/{ID}", POD_CONTAINER, UID, ID),
    ("cgroupfs CRI-O", f"{CGROUPFS}/crio-{ID}", POD_CONTAINER, UID, ID),
    (
        "cgroupfs conmon",
        f"{CGROUPFS}/crio-conmon-{ID}",
        *(POD_CONTAINER, UID, f"crio-conmon-{ID}"),
    ),
    ("cgroupfs cri-dockerd", f"{CGROUPFS}/{ID}/sub", POD_CONTAINER, UID, ID),
    ("kata", f"{CGROUPFS}/kata_{ID}", POD_CONTAINER, UID, f"kata_{ID}"),
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
    (
        "k3s without root",
        f"{USER}/app.slice/k3s-rootless.service{CGROUPFS}/{ID}",
        *(POD_CONTAINER, UID, ID),
    ),
    (
        "MicroK8s",
        f"/system.slice/snap.microk8s.daemon-kubelite.service{CGROUPFS}/{ID}",
        *(POD_CONTAINER, UID, ID),
    ),
    # a node that is a container
    ("kind", f"{KIND}{KIND_POD}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
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
    ("colons, docker", f"/system.slice:docker:{ID}", CONTAINER, "", ID),
    # seen from inside a cgroup namespace
    ("namespace", f"/../..{SYSTEMD}/cri-containerd-{ID}.scope", POD_CONTAINER, UID, ID),
    (
        "namespace, siblings",
        f"/../../kubepods-burstable-pod{U}.slice/cri-containerd-{ID}.scope",
        *(POD_CONTAINER, UID, ID),
    ),
    ("namespace, cgroupfs", f"/../../../besteffort/pod{UID}/{ID}", POD_CONTAINER, UID, ID),
    # without Kubernetes
    ("docker", f"/system.slice/docker-{ID}.scope", CONTAINER, "", ID),
    ("docker, cgroupfs", f"/docker/{ID}", CONTAINER, "", ID),
    ("buildkit", f"/docker/buildkit/{ID}", CONTAINER, "", ID),
    ("podman", f"/machine.slice/libpod-{ID}.scope/container", CONTAINER, "", ID),
    ("nerdctl", f"/system.slice/nerdctl-{ID}.scope", CONTAINER, "", ID),
    ("containerd's ctr", f"/default/{ID}", CONTAINER, "", ID),
    ("ECS", f"/ecs/0123456789abcdef0123456789abcdef/{ID}", CONTAINER, "", ID),
    ("a service", "/system.slice/nginx.service", UNIT, "", "nginx.service"),
    ("kubelet", "/system.slice/kubelet.service", UNIT, "", "kubelet.service"),
    ("containerd", "/runtime.slice/containerd.service", UNIT, "", "containerd.service"),
    ("shim", "/system.slice/containerd.service/kubepods/burstable", UNIT, "", "containerd.service"),
    ("a session", "/user.slice/user-0.slice/session-1.scope", UNIT, "", "session-1.scope"),
    ("podman without root", f"{USER}/user.slice/libpod-{ID}.scope", UNIT, "", "user@1000.service"),
    # nobody's: the host
    ("root", "/", HOST, "", ""),
    ("all pods", "/kubepods.slice/kubepods-burstable.slice", HOST, "", ""),
    ("a pod's own", SYSTEMD, HOST, "", ""),
    ("a pod's own, cgroupfs", CGROUPFS, HOST, "", ""),
    ("no uid", "/kubepods/pod1234/x", HOST, "", ""),
    ("Fargate's tasks", "/ecs/0123456789abcdef0123456789abcdef-1234567890", HOST, "", ""),
]
