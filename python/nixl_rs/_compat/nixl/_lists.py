"""Descriptor lists. Their rows stay in a native list until somebody asks for one."""

import operator
import struct

from nixl_rs._native import Descriptors, _triples

from ._enums import nixl_mem_t

_SERDES = b"nixlSerDes|"
# Rows that a list can be made of without having them.
_MOST = 1 << 26


def _tag(name, value):
    return name + struct.pack("<Q", len(value)) + value + b"|"


def _take(data, name):
    """The value behind a tag, and the rest."""
    if not data.startswith(name) or len(data) < len(name) + 8:
        raise ValueError("not a serialized descriptor list")
    begin = len(name) + 8
    end = begin + struct.unpack_from("<Q", data, len(name))[0]
    if data[end : end + 1] != b"|":
        raise ValueError("not a serialized descriptor list")
    return data[begin:end], data[end + 1 :]


def _is_array(value):
    return hasattr(value, "dtype") and hasattr(value, "ndim")


def checked(array, width=3):
    """The array, if NIXL takes it as descriptors."""
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"descs must be a Nx{width} numpy array")
    kind = array.dtype
    if kind.kind not in "iu" or kind.itemsize != 8 or not kind.isnative:
        raise ValueError(f"descs must be a Nx{width} numpy array of uint64 or int64")
    if not array.flags.c_contiguous:
        raise ValueError("descs must be a C-contiguous numpy array")
    return array


class _List:
    __slots__ = ("_keep", "_made", "_mem", "_rows")
    __module__ = "nixl._bindings"
    _width = 3

    def __init__(self, type, descs=0, init_size=0):
        if not isinstance(type, nixl_mem_t):
            raise TypeError("__init__(): incompatible constructor arguments: nixl_mem_t needed")
        self._mem, self._rows, self._made, self._keep = type, [], None, None
        if _is_array(descs):
            self._from_array(descs)
        elif isinstance(descs, (list, tuple)):
            self._from_rows(list(descs))
        elif isinstance(descs, int):
            count = descs or init_size
            if not 0 <= count <= _MOST:
                kind = ValueError if count < 0 else TypeError
                raise kind(f"__init__(): a list cannot have {count} rows")
            self._rows = [(0,) * 3 + (b"",) * (self._width - 3)] * count
        else:
            raise TypeError("__init__(): incompatible constructor arguments: list needed")

    def _from_array(self, array):
        self._made, self._rows = Descriptors(checked(array), self._kind_of_memory()), None

    def _from_rows(self, rows):
        self._rows = [self._row(row) for row in rows]

    def _row(self, row):
        if not isinstance(row, tuple) or len(row) != self._width:
            raise ValueError(f"Each descriptor tuple must have exactly {self._width} elements")
        try:
            whole = tuple(map(operator.index, row[:3]))
        except TypeError:
            whole = (-1,)
        if min(whole) < 0 or max(whole) >= 1 << 64:
            # NIXL's kind of error here.
            raise RuntimeError(f"address, length and device are integers of 64 bits, not {row[:3]}")
        return (*whole, *row[3:])

    def _list(self):
        """The rows as Python's."""
        if self._rows is None:
            rows = struct.iter_unpack("=5Q", self._made.to_bytes())
            self._rows = [self._from_triple(row[:3]) for row in rows]
        return self._rows

    def _changed(self):
        rows = self._list()
        self._made = None
        return rows

    def _native(self):
        """The rows as the library's."""
        if self._made is None:
            rows = [row[:3] for row in self._rows]
            self._made = Descriptors(rows, self._kind_of_memory())
        return self._made

    def _kind_of_memory(self):
        return "dram" if self._mem is nixl_mem_t.DRAM_SEG else "vram"

    def _from_triple(self, triple):
        return triple

    def getType(self):
        return self._mem

    def descCount(self):
        return len(self._made if self._rows is None else self._rows)

    def isEmpty(self):
        return self.descCount() == 0

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self._mem == other._mem and self._list() == other._list()

    __hash__ = None

    def _at(self, index):
        if not isinstance(index, int) or index < 0:
            raise TypeError("incompatible function arguments: an index is not negative")
        if index >= self.descCount():
            raise IndexError("Index is out of range")
        return index

    def __getitem__(self, index):
        return self._list()[self._at(index)]

    def __setitem__(self, index, row):
        self._changed()[self._at(index)] = self._row(row)

    def addDesc(self, row):
        if len(row) < self._width:
            raise IndexError("tuple index out of range")
        self._changed().append(self._row(row))

    append = addDesc

    def remDesc(self, index):
        del self._changed()[self._at(index)]

    def clear(self):
        self._rows, self._made = [], None

    def print(self):
        print(f"DescList of mem type {int(self._mem)}")
        for row in self._list():
            print("  ", *row)


class _Serialized:
    """The lists that NIXL can pickle."""

    __slots__ = ()
    __module__ = "nixl._bindings"

    def index(self, row):
        try:
            return self._list().index(row)
        except ValueError:
            from ._bindings import nixlNotFoundError

            raise nixlNotFoundError("NIXL_ERR_NOT_FOUND") from None

    def __getstate__(self):
        rows = self._list()
        head = _tag(b"nixlDList", self._kind) + _tag(b"t", struct.pack("<I", int(self._mem)))
        return _SERDES + head + _tag(b"n", struct.pack("<Q", len(rows))) + self._items(rows)

    def __setstate__(self, data):
        if not isinstance(data, bytes) or not data.startswith(_SERDES):
            raise ValueError("not a serialized descriptor list")
        kind, rest = _take(data[len(_SERDES) :], b"nixlDList")
        mem, rest = _take(rest, b"t")
        count, rest = _take(rest, b"n")
        if kind != self._kind or len(mem) != 4 or len(count) != 8:
            raise ValueError("a descriptor list of another kind")
        self._mem = nixl_mem_t(struct.unpack("<I", mem)[0])
        self._rows = self._parsed(struct.unpack("<Q", count)[0], rest)
        self._made = self._keep = None


class nixlXferDList(_Serialized, _List):
    """Blocks to transfer: (address, length, device)."""

    __slots__ = ()
    __module__ = "nixl._bindings"
    _kind = b"nixlBDList"

    def _from_rows(self, rows):
        self._made, self._rows = _triples(rows, self._kind_of_memory()), None
        if self._made is None:
            # Says which row is wrong.
            super()._from_rows(rows)

    def _items(self, rows):
        if not rows:
            return b""
        return _tag(b"", b"".join(struct.pack("<3Q", *row) for row in rows))

    def _parsed(self, count, rest):
        items, rest = _take(rest, b"") if count else (b"", rest)
        if rest or len(items) != count * 24:
            raise ValueError("not a serialized descriptor list")
        return list(struct.iter_unpack("<3Q", items))


class nixlRegDList(_Serialized, _List):
    """Memory to register: (address, length, device, what is said of it)."""

    __slots__ = ()
    __module__ = "nixl._bindings"
    _kind = b"nixlSDList"
    _width = 4

    def _row(self, row):
        address, length, device, meta = super()._row(row)
        if not isinstance(meta, (str, bytes, bytearray)):
            raise RuntimeError(f"what is said of memory is bytes, not {meta!r}")
        meta = meta.encode() if isinstance(meta, str) else bytes(meta)
        return (address, length, device, meta)

    def _from_triple(self, triple):
        return (*triple, b"")

    def trim(self):
        """The same blocks, to transfer."""
        return nixlXferDList(self._mem, [row[:3] for row in self._list()])

    def _items(self, rows):
        return b"".join(_tag(b"", struct.pack("<3Q", *row[:3]) + row[3]) for row in rows)

    def _parsed(self, count, rest):
        rows = []
        while rest:
            item, rest = _take(rest, b"")
            if len(item) < 24:
                raise ValueError("not a serialized descriptor list")
            rows.append((*struct.unpack_from("<3Q", item), item[24:]))
        if len(rows) != count:
            raise ValueError("not a serialized descriptor list")
        return rows


class nixlRemoteDList(_List):
    """Blocks of several agents: (address, length, device, agent)."""

    __slots__ = ()
    __module__ = "nixl._bindings"
    _width = 4
