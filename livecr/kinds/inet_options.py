"""What a socket can be told: every option that getsockopt(2) tells and setsockopt(2) takes again.

An option is set only where a new socket differs: defaults stay those of the machine. Called by sockets_inet
and sockets_netlink.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

__all__ = ["ROWS", "load", "save"]

SOL_SOCKET, SOL_IP, SOL_TCP, SOL_UDP, SOL_IPV6 = 1, 0, 6, 17, 41
SOL_ICMPV6, SOL_UDPLITE, SOL_RAW, SOL_NETLINK = 58, 136, 255, 270
_INT, _LONG, _LINGER, _TIMEVAL, _NAME, _IP_OPTIONS = 4, 8, 8, 16, 16, 40  # bytes; names are NUL-terminated
_ICMP_FILTER, _ICMPV6_FILTER = 4, 32

# Name, level, number, bytes of its value: socket(7), ip(7), ipv6(7), tcp(7), udp(7), netlink(7) and the
# kernel's headers.
ROWS: tuple[tuple[str, int, int, int], ...] = (
    ("SO_REUSEADDR", SOL_SOCKET, 2, _INT),
    ("SO_DONTROUTE", SOL_SOCKET, 5, _INT),
    ("SO_BROADCAST", SOL_SOCKET, 6, _INT),
    ("SO_KEEPALIVE", SOL_SOCKET, 9, _INT),
    ("SO_OOBINLINE", SOL_SOCKET, 10, _INT),
    ("SO_NO_CHECK", SOL_SOCKET, 11, _INT),
    ("SO_PRIORITY", SOL_SOCKET, 12, _INT),
    ("SO_LINGER", SOL_SOCKET, 13, _LINGER),
    ("SO_PASSCRED", SOL_SOCKET, 16, _INT),
    ("SO_REUSEPORT", SOL_SOCKET, 15, _INT),
    ("SO_RCVLOWAT", SOL_SOCKET, 18, _INT),
    ("SO_RCVTIMEO", SOL_SOCKET, 20, _TIMEVAL),
    ("SO_SNDTIMEO", SOL_SOCKET, 21, _TIMEVAL),
    ("SO_BINDTODEVICE", SOL_SOCKET, 25, _NAME),
    ("SO_TIMESTAMP", SOL_SOCKET, 29, _INT),
    ("SO_TIMESTAMPNS", SOL_SOCKET, 35, _INT),
    ("SO_MARK", SOL_SOCKET, 36, _INT),
    ("SO_TIMESTAMPING", SOL_SOCKET, 37, _LONG),
    ("SO_RXQ_OVFL", SOL_SOCKET, 40, _INT),
    ("SO_PEEK_OFF", SOL_SOCKET, 42, _INT),
    ("SO_LOCK_FILTER", SOL_SOCKET, 44, _INT),
    ("SO_SELECT_ERR_QUEUE", SOL_SOCKET, 45, _INT),
    ("SO_BUSY_POLL", SOL_SOCKET, 46, _INT),
    ("SO_MAX_PACING_RATE", SOL_SOCKET, 47, _LONG),
    ("SO_INCOMING_CPU", SOL_SOCKET, 49, _INT),
    ("SO_ZEROCOPY", SOL_SOCKET, 60, _INT),
    ("SO_TIMESTAMP_NEW", SOL_SOCKET, 63, _INT),
    ("SO_TIMESTAMPNS_NEW", SOL_SOCKET, 64, _INT),
    ("SO_TIMESTAMPING_NEW", SOL_SOCKET, 65, _LONG),
    ("SO_PREFER_BUSY_POLL", SOL_SOCKET, 69, _INT),
    ("SO_RESERVE_MEM", SOL_SOCKET, 73, _INT),
    ("SO_TXREHASH", SOL_SOCKET, 74, _INT),
    ("SO_RCVMARK", SOL_SOCKET, 75, _INT),
    ("SO_RCVPRIORITY", SOL_SOCKET, 82, _INT),
    ("IP_TOS", SOL_IP, 1, _INT),
    ("IP_TTL", SOL_IP, 2, _INT),
    ("IP_HDRINCL", SOL_IP, 3, _INT),
    ("IP_OPTIONS", SOL_IP, 4, _IP_OPTIONS),
    ("IP_PKTINFO", SOL_IP, 8, _INT),
    ("IP_MTU_DISCOVER", SOL_IP, 10, _INT),
    ("IP_RECVERR", SOL_IP, 11, _INT),
    ("IP_RECVTTL", SOL_IP, 12, _INT),
    ("IP_RECVTOS", SOL_IP, 13, _INT),
    ("IP_FREEBIND", SOL_IP, 15, _INT),
    ("IP_PASSSEC", SOL_IP, 18, _INT),
    ("IP_TRANSPARENT", SOL_IP, 19, _INT),
    ("IP_RECVORIGDSTADDR", SOL_IP, 20, _INT),
    ("IP_MINTTL", SOL_IP, 21, _INT),
    ("IP_CHECKSUM", SOL_IP, 23, _INT),
    ("IP_BIND_ADDRESS_NO_PORT", SOL_IP, 24, _INT),
    ("IP_RECVFRAGSIZE", SOL_IP, 25, _INT),
    ("IP_RECVERR_RFC4884", SOL_IP, 26, _INT),
    ("IP_MULTICAST_IF", SOL_IP, 32, _INT),
    ("IP_MULTICAST_TTL", SOL_IP, 33, _INT),
    ("IP_MULTICAST_LOOP", SOL_IP, 34, _INT),
    ("IP_MULTICAST_ALL", SOL_IP, 49, _INT),
    ("IP_UNICAST_IF", SOL_IP, 50, _INT),
    ("IP_LOCAL_PORT_RANGE", SOL_IP, 51, _INT),
    ("IPV6_CHECKSUM", SOL_IPV6, 7, _INT),
    ("IPV6_UNICAST_HOPS", SOL_IPV6, 16, _INT),
    ("IPV6_MULTICAST_IF", SOL_IPV6, 17, _INT),
    ("IPV6_MULTICAST_HOPS", SOL_IPV6, 18, _INT),
    ("IPV6_MULTICAST_LOOP", SOL_IPV6, 19, _INT),
    ("IPV6_MTU_DISCOVER", SOL_IPV6, 23, _INT),
    ("IPV6_RECVERR", SOL_IPV6, 25, _INT),
    ("IPV6_V6ONLY", SOL_IPV6, 26, _INT),
    ("IPV6_MULTICAST_ALL", SOL_IPV6, 29, _INT),
    ("IPV6_RECVERR_RFC4884", SOL_IPV6, 31, _INT),
    ("IPV6_FLOWINFO_SEND", SOL_IPV6, 33, _INT),
    ("IPV6_HDRINCL", SOL_IPV6, 36, _INT),
    ("IPV6_RECVPKTINFO", SOL_IPV6, 49, _INT),
    ("IPV6_RECVHOPLIMIT", SOL_IPV6, 51, _INT),
    ("IPV6_DONTFRAG", SOL_IPV6, 62, _INT),
    ("IPV6_RECVTCLASS", SOL_IPV6, 66, _INT),
    ("IPV6_TCLASS", SOL_IPV6, 67, _INT),
    ("IPV6_AUTOFLOWLABEL", SOL_IPV6, 70, _INT),
    ("IPV6_RECVORIGDSTADDR", SOL_IPV6, 74, _INT),
    ("IPV6_TRANSPARENT", SOL_IPV6, 75, _INT),
    ("IPV6_UNICAST_IF", SOL_IPV6, 76, _INT),
    ("IPV6_RECVFRAGSIZE", SOL_IPV6, 77, _INT),
    ("IPV6_FREEBIND", SOL_IPV6, 78, _INT),
    ("TCP_CONGESTION", SOL_TCP, 13, _NAME),  # before what depends on it
    ("TCP_NODELAY", SOL_TCP, 1, _INT),
    ("TCP_MAXSEG", SOL_TCP, 2, _INT),
    ("TCP_CORK", SOL_TCP, 3, _INT),
    ("TCP_KEEPIDLE", SOL_TCP, 4, _INT),
    ("TCP_KEEPINTVL", SOL_TCP, 5, _INT),
    ("TCP_KEEPCNT", SOL_TCP, 6, _INT),
    ("TCP_SYNCNT", SOL_TCP, 7, _INT),
    ("TCP_LINGER2", SOL_TCP, 8, _INT),
    ("TCP_DEFER_ACCEPT", SOL_TCP, 9, _INT),
    ("TCP_WINDOW_CLAMP", SOL_TCP, 10, _INT),
    ("TCP_QUICKACK", SOL_TCP, 12, _INT),
    ("TCP_THIN_LINEAR_TIMEOUTS", SOL_TCP, 16, _INT),
    ("TCP_USER_TIMEOUT", SOL_TCP, 18, _INT),
    ("TCP_FASTOPEN", SOL_TCP, 23, _INT),
    ("TCP_NOTSENT_LOWAT", SOL_TCP, 25, _INT),
    ("TCP_SAVE_SYN", SOL_TCP, 27, _INT),
    ("TCP_FASTOPEN_CONNECT", SOL_TCP, 30, _INT),
    ("TCP_FASTOPEN_NO_COOKIE", SOL_TCP, 34, _INT),
    ("TCP_INQ", SOL_TCP, 36, _INT),
    ("TCP_TX_DELAY", SOL_TCP, 37, _INT),
    ("UDP_ENCAP", SOL_UDP, 100, _INT),
    ("UDP_NO_CHECK6_TX", SOL_UDP, 101, _INT),
    ("UDP_NO_CHECK6_RX", SOL_UDP, 102, _INT),
    ("UDP_SEGMENT", SOL_UDP, 103, _INT),
    ("UDP_GRO", SOL_UDP, 104, _INT),
    ("UDPLITE_SEND_CSCOV", SOL_UDPLITE, 10, _INT),
    ("UDPLITE_RECV_CSCOV", SOL_UDPLITE, 11, _INT),
    ("ICMP_FILTER", SOL_RAW, 1, _ICMP_FILTER),
    ("ICMPV6_FILTER", SOL_ICMPV6, 1, _ICMPV6_FILTER),
    ("NETLINK_PKTINFO", SOL_NETLINK, 3, _INT),
    ("NETLINK_BROADCAST_ERROR", SOL_NETLINK, 4, _INT),
    ("NETLINK_NO_ENOBUFS", SOL_NETLINK, 5, _INT),
    ("NETLINK_LISTEN_ALL_NSID", SOL_NETLINK, 8, _INT),
    ("NETLINK_CAP_ACK", SOL_NETLINK, 10, _INT),
    ("NETLINK_EXT_ACK", SOL_NETLINK, 11, _INT),
    ("NETLINK_GET_STRICT_CHK", SOL_NETLINK, 12, _INT),
)

# The kernel doubles what is asked for, and whoever asks loses automatic sizes: SO_BUF_LOCK (5.14) tells
# whether the program has asked. Name, to read it, to set it beyond rmem_max and wmem_max, bit in SO_BUF_LOCK.
_BUFFERS = (("SO_SNDBUF", 7, 32, 1), ("SO_RCVBUF", 8, 33, 2))
_SO_BUF_LOCK = 72
_NAMES = ("SO_BINDTODEVICE", "TCP_CONGESTION")


def _read(sock: socket) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, level, number, size in ROWS:
        try:
            value = sock.getsockopt(level, number, size)
        except OSError:
            continue  # not for a socket of this kind, or not known to this kernel
        found[name] = value.split(b"\0")[0] if name in _NAMES else value
    return found


def save(sock: socket, fresh: socket) -> dict[str, bytes]:
    """The options in which a socket differs from a new one, as getsockopt tells them."""
    new = _read(fresh)
    found = {name: value for name, value in _read(sock).items() if new.get(name) != value}
    locked = sock.getsockopt(SOL_SOCKET, _SO_BUF_LOCK)
    for name, number, _, bit in _BUFFERS:
        if locked & bit:
            found[name] = sock.getsockopt(SOL_SOCKET, number, _INT)
    return found


def load(sock: socket, options: dict[str, bytes]) -> None:
    """Set them. Raises OSError; ValueError for a name that is not known."""
    left = dict(options)
    for name, level, number, _ in ROWS:
        if name in left:
            sock.setsockopt(level, number, left.pop(name))
    for name, _, force, _ in _BUFFERS:
        if name in left:
            half = int.from_bytes(left.pop(name), "little") // 2
            sock.setsockopt(SOL_SOCKET, force, half.to_bytes(_INT, "little"))
    if left:
        raise ValueError(f"socket options {', '.join(left)}")
