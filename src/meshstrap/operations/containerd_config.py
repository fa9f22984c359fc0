"""Write containerd's configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w

CNI_DIRECTORY = "/opt/cni/bin"
RUNC = "/usr/local/sbin/runc"
_FIRST_WITH_VERSION_3 = 2


def problem(config: Mapping[str, Any], containerd: str) -> str | None:
    """Say what is wrong with the data `containerd_config`; None: nothing. No value is told: it may be secret.

    Args:
        config: the data.
        containerd: the version of containerd that reads it.

    """
    version = _form(containerd)
    if config.get("version", version) != version:
        return f"containerd_config: version is not {version}, which containerd {containerd} of the bundle gets"
    plugins = config.get("plugins") or {}
    unread = [name for name in plugins if name.startswith("io.containerd.cri.v1.")] if version < 3 else []
    if unread:
        return (
            f"containerd_config: containerd {containerd} of the bundle reads version 2, and not {', '.join(unread)}:"
            " write it under io.containerd.grpc.v1.cri"
        )
    if version > 2 and {"containerd", "cni", "registry", "sandbox_image"} & set(
        plugins.get("io.containerd.grpc.v1.cri") or {}
    ):
        return (
            f"containerd_config: containerd {containerd} of the bundle reads version 3: write what stands under"
            " io.containerd.grpc.v1.cri under io.containerd.cri.v1.runtime or io.containerd.cri.v1.images"
        )
    try:
        toml(config)
    except (TypeError, ValueError) as error:
        return f"containerd_config: cannot be written as TOML: {type(error).__name__} ({_where(config)})"
    return None


def configuration(pause: str, *, systemd_cgroup: bool, version: str) -> dict[str, Any]:
    """Make containerd's configuration: version 3, or version 2 for containerd 1.x, which knows no other.

    Args:
        pause: the image that every pod's sandbox is made of.
        systemd_cgroup: whether systemd makes the containers' cgroups; the kubelet's cgroupDriver must say the same.
        version: containerd's.

    """
    runc = {
        "runtime_type": "io.containerd.runc.v2",
        "options": {"BinaryName": RUNC, "SystemdCgroup": systemd_cgroup},
    }
    if _form(version) < 3:
        cri = {
            "sandbox_image": pause,
            "cni": {"bin_dir": CNI_DIRECTORY, "conf_dir": "/etc/cni/net.d"},
            "containerd": {"runtimes": {"runc": runc}},
        }
        return {"version": 2, "plugins": {"io.containerd.grpc.v1.cri": cri}}
    return {
        "version": 3,
        "plugins": {
            "io.containerd.cri.v1.runtime": {
                "cni": {"bin_dirs": [CNI_DIRECTORY], "conf_dir": "/etc/cni/net.d"},
                "containerd": {"runtimes": {"runc": runc}},
            },
            "io.containerd.cri.v1.images": {"pinned_images": {"sandbox": pause}},
        },
    }


def toml(settings: Mapping[str, Any]) -> str:
    """Write settings as TOML. A setting that is None is left out: TOML has no such value.

    Raises:
        TypeError: a value is of no type that TOML has.

    """
    return tomli_w.dumps(_given(settings))


def _given(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _given(inner) for key, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list | tuple) else value


def _where(config: Any, path: str = "") -> str:
    if isinstance(config, Mapping):
        children = [(f"{path}.{key}".lstrip("."), value) for key, value in config.items() if value is not None]
    elif isinstance(config, list | tuple):
        children = [(f"{path}[{index}]", value) for index, value in enumerate(config)]
    else:
        return f"{path} is {type(config).__name__}"
    for name, value in children:
        try:
            toml({"value": [value]})
        except (TypeError, ValueError):
            return _where(value, name)
    return f"the names in {path or 'it'}"


def _form(version: str) -> int:
    major = version.removeprefix("v").partition(".")[0]
    return 2 if major.isdigit() and int(major) < _FIRST_WITH_VERSION_3 else 3
