"""The mail does not lie on a network file system unnoticed."""

from pathlib import Path

import pytest

from lorrainemail.store.filesystem import network_type

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:35 / /srv rw,relatime shared:20 - nfs4 nas:/export rw,vers=4.2
41 40 254:1 / /srv/fast rw - ext4 /dev/vdb rw
42 22 0:36 / /mnt/with\040space rw - cifs //nas/mail rw
43 22 0:37 / /twice rw - nfs nas:/a rw
44 22 0:38 / /twice rw - xfs /dev/vdc rw
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/lorrainemail", ""),
        ("/srv", "nfs4"),
        ("/srv/mail", "nfs4"),
        ("/srvother", ""),
        ("/srv/fast/mail", ""),
        ("/mnt/with space/mail", "cifs"),
        ("/twice/x", ""),
    ],
)
def test_the_innermost_mount_counts(path: str, kind: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_type(path, str(mounts)) == kind


def test_where_nobody_can_tell_nothing_is_refused(tmp_path: Path) -> None:
    assert network_type("/srv", str(tmp_path / "none")) == ""
