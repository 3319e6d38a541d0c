"""What cffi makes of native/ext/*.h: functions by name, -errno on failure."""

from typing import Any

ffi: Any
lib: Any
