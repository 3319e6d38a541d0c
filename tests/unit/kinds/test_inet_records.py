"""Records of internet sockets that an image from elsewhere could hold: none makes livecr ask the network."""

from __future__ import annotations

import os
import socket

import pytest
from livecr.errors import BadImage, Refused
from livecr.kinds.sockets_inet import Address, InetSocket, Membership, load
from livecr.kinds.sockets_netlink import NetlinkSocket
from livecr.kinds.sockets_netlink import load as load_netlink
from livecr.kinds.udp_queues import Datagram


def record(**changes: object) -> InetSocket:
    """A bound UDP socket, but for the changes."""
    fields: dict[str, object] = {
        "family": socket.AF_INET,
        "socket_type": socket.SOCK_DGRAM,
        "protocol": 0,
        "flags": 0,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "local": Address(host="127.0.0.1", port=0, flow=0, scope=0),
        "peer": None,
        "backlog": None,
        "options": {},
        "filter": b"",
        "groups": [],
        "datagrams": [],
    }
    return InetSocket(**(fields | changes))  # type: ignore[arg-type]


def test_a_good_one_is_made() -> None:
    """With its option and its address."""
    ttl = (9).to_bytes(4, "little")
    with socket.socket(fileno=load(record(options={"IP_TTL": ttl}))) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 9
        assert sock.getblocking()


@pytest.mark.parametrize("host", ["localhost", "example.invalid", "", "::1", "127.1"])
def test_a_name_is_no_address(host: str) -> None:
    """It would be looked up."""
    with pytest.raises(BadImage, match="is no address"):
        load(record(local=Address(host=host, port=0, flow=0, scope=0)))


def test_other_families_are_refused() -> None:
    """Only what livecr saves as such is made."""
    with pytest.raises(BadImage):
        load(record(family=socket.AF_NETLINK))


def test_an_unknown_option_is_an_error() -> None:
    """It is not left out silently; restore() makes it a BadImage."""
    with pytest.raises(ValueError, match="SO_NONSENSE"):
        load(record(options={"SO_NONSENSE": b""}))


def test_an_address_that_is_not_there_is_refused() -> None:
    """192.0.2.1 is reserved for documentation (RFC 5737): no machine has it."""
    with pytest.raises(Refused, match="cannot be made again") as refusal:
        load(record(local=Address(host="192.0.2.1", port=7, flow=0, scope=0)))
    assert refusal.value.where == "UDP socket 192.0.2.1:7"


@pytest.mark.parametrize("wrong", [{"host": "localhost"}, {"to": "example.invalid"}])
def test_a_name_sends_no_datagram(wrong: dict[str, str]) -> None:
    """Nor would either be looked up."""
    fields = {"host": "192.0.2.1", "to": "127.0.0.1"} | wrong
    datagram = Datagram(data=b"x", port=7, ttl=64, tos=0, **fields)
    with pytest.raises(BadImage, match="no address"):
        load(record(datagrams=[datagram]))


def test_a_name_is_no_group() -> None:
    """Nor would it be looked up."""
    group = Membership(host="localhost", interface=1, exclude=True, sources=[])
    with pytest.raises(BadImage, match="is no multicast group"):
        load(record(groups=[group]))


@pytest.mark.parametrize("protocol", [9, 16, 31, -1])
def test_other_netlink_protocols_are_refused(protocol: int) -> None:
    """Only those that livecr saves are made."""
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    with pytest.raises(BadImage, match="protocol"):
        load_netlink(
            NetlinkSocket(
                inode=1,
                socket_type=socket.SOCK_RAW,
                protocol=protocol,
                flags=0,
                port=0,
                groups=[],
                peer=None,
                options={},
                filter=b"",
                **owner,
            )
        )
