//! Descriptor lists and index lists out of Python objects, without a Python object for each row.

use std::sync::OnceLock;

use nixl::{DescList, MemKind, Run};
use pyo3::{
    exceptions::PyTypeError,
    ffi,
    prelude::*,
    types::{PyBytes, PyDict, PyInt, PyList, PyTuple},
};

use crate::{buffer::Buffer, error::misuse, region::Region};

/// Blocks of memory: what transfers are made of.
///
/// Made of an array of 64-bit integers with the columns (address, length), (address, length, device)
/// or (address, length, device, stride, count), of a sequence of such tuples, or of a Region.
#[pyclass(module = "nixl_rs", frozen, sequence)]
pub(crate) struct Descriptors {
    kind: MemKind,
    /// As many numbers a row as there are columns. Kept as they came: many lists are made and only
    /// some are used.
    cells: Vec<u64>,
    columns: usize,
    list: OnceLock<DescList>,
}

impl Descriptors {
    fn runs(&self) -> impl ExactSizeIterator<Item = Run> {
        self.cells.chunks_exact(self.columns).map(|row| match *row {
            [addr, len, dev, stride, count] => Run {
                addr,
                len,
                dev,
                stride,
                count,
            },
            [addr, len, dev] => Run::single(addr, len, dev),
            [addr, len] => Run::single(addr, len, 0),
            _ => Run::single(0, 0, 0),
        })
    }

    fn list(&self) -> &DescList {
        self.list.get_or_init(|| {
            let mut list = DescList::new(self.kind);
            match self.kind {
                // Programs number host memory as they like; it is all one device.
                MemKind::Dram => list.extend(self.runs().map(|run| Run { dev: 0, ..run })),
                _ => list.extend(self.runs()),
            }
            list
        })
    }
}

#[pymethods]
impl Descriptors {
    #[new]
    #[pyo3(signature = (rows, kind = "dram"))]
    fn new(rows: &Bound<'_, PyAny>, kind: &str) -> PyResult<Self> {
        parse(rows, mem_kind(kind)?)
    }

    /// Kind of memory.
    #[getter]
    fn kind(&self) -> &'static str {
        kind_name(self.kind)
    }

    /// Bytes in all blocks.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.runs()
            .map(|run| run.len.saturating_mul(run.count))
            .fold(0, u64::saturating_add)
    }

    fn __len__(&self) -> usize {
        let blocks = match self.columns {
            5 => self
                .runs()
                .map(|run| run.count)
                .fold(0, u64::saturating_add),
            columns => (self.cells.len() / columns) as u64,
        };
        // Python's lengths are signed.
        usize::try_from(blocks)
            .unwrap_or(usize::MAX)
            .min(isize::MAX as usize)
    }

    /// The runs as rows of five 64-bit integers: address, length, device, stride, count.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let runs = self.runs();
        PyBytes::new_with(py, runs.len() * 40, |out| {
            for (run, row) in runs.zip(out.chunks_exact_mut(40)) {
                let values = [run.addr, run.len, run.dev, run.stride, run.count];
                for (value, cell) in values.iter().zip(row.chunks_exact_mut(8)) {
                    cell.copy_from_slice(&value.to_ne_bytes());
                }
            }
            Ok(())
        })
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.kind == other.kind && self.runs().eq(other.runs())
    }

    fn __repr__(&self) -> String {
        let shown = |run: Run| match run.count {
            1 => format!("({:#x}, {})", run.addr, run.len),
            n => format!("({:#x}, {}) x {n} every {}", run.addr, run.len, run.stride),
        };
        let mut parts: Vec<String> = self.runs().take(3).map(shown).collect();
        if self.runs().len() > 3 {
            parts.push("...".to_owned());
        }
        format!(
            "<Descriptors of {}: {} blocks, {} bytes: {}>",
            self.kind(),
            self.__len__(),
            self.nbytes(),
            parts.join(", ")
        )
    }
}

/// `"dram"` or `"vram"`.
pub(crate) fn mem_kind(name: &str) -> PyResult<MemKind> {
    match name {
        "dram" => Ok(MemKind::Dram),
        "vram" => Ok(MemKind::Vram),
        _ => Err(misuse(format!(
            "{name:?} is no kind of memory: dram or vram"
        ))),
    }
}

fn kind_name(kind: MemKind) -> &'static str {
    match kind {
        MemKind::Vram => "vram",
        _ => "dram",
    }
}

/// Calls `f` with the list that `obj` is or stands for.
pub(crate) fn with_list<R>(
    obj: &Bound<'_, PyAny>,
    f: impl FnOnce(&DescList) -> PyResult<R>,
) -> PyResult<R> {
    match obj.cast::<Descriptors>() {
        Ok(made) => f(made.get().list()),
        Err(_) => f(parse(obj, MemKind::Dram)?.list()),
    }
}

fn parse(obj: &Bound<'_, PyAny>, kind: MemKind) -> PyResult<Descriptors> {
    if let Ok(region) = obj.cast::<Region>() {
        let span = region.get().span();
        return Ok(made(span.kind, vec![span.addr, span.len, span.dev], 3));
    }
    match Buffer::items(obj) {
        Ok(buffer) => from_array(&buffer, kind),
        // A strided array has the protocol too, and would be walked row by row.
        Err(error) if obj.getattr("dtype").is_ok() => Err(misuse(format!(
            "descriptor arrays are contiguous: {}",
            error.value(obj.py())
        ))),
        Err(_) => from_tuples(obj, kind),
    }
}

fn made(kind: MemKind, cells: Vec<u64>, columns: usize) -> Descriptors {
    Descriptors {
        kind,
        cells,
        columns,
        list: OnceLock::new(),
    }
}

fn from_array(buffer: &Buffer<'_>, kind: MemKind) -> PyResult<Descriptors> {
    let shape = buffer.shape();
    let wide =
        buffer.item_size() == 8 && matches!(buffer.letter(), Some(b'Q' | b'L' | b'q' | b'l'));
    let columns = match shape[..] {
        [_, columns @ (2 | 3 | 5)] if wide => columns,
        _ => {
            return Err(misuse(format!(
                "a descriptor array has 64-bit integers and 2, 3 or 5 columns, not the shape \
                 {shape:?} of {}-byte items; use numpy.uint64",
                buffer.item_size()
            )));
        }
    };
    let (cells, _) = buffer.bytes().as_chunks();
    let cells = cells.iter().map(|cell| u64::from_ne_bytes(*cell));
    Ok(made(kind, cells.collect(), columns))
}

/// Rows of three while no row has stride and count, then of five.
fn from_tuples(obj: &Bound<'_, PyAny>, kind: MemKind) -> PyResult<Descriptors> {
    let rows = obj.len().unwrap_or(0);
    let mut cells = Vec::with_capacity(rows.saturating_mul(3).min(1 << 20));
    let mut columns = 3;
    for (number, row) in obj.try_iter()?.enumerate() {
        let row = row?;
        let run = if let Ok((addr, len, dev)) = row.extract::<(u64, u64, u64)>() {
            Run::single(addr, len, dev)
        } else if let Ok((addr, len)) = row.extract::<(u64, u64)>() {
            Run::single(addr, len, 0)
        } else if let Ok((addr, len, dev, stride, count)) = row.extract() {
            if columns == 3 {
                (cells, columns) = (widened(&cells), 5);
            }
            Run {
                addr,
                len,
                dev,
                stride,
                count,
            }
        } else {
            return Err(misuse(format!(
                "row {number} is no descriptor: expected (address, length[, device[, stride, \
                 count]]), not {row}"
            )));
        };
        let values = [run.addr, run.len, run.dev, run.stride, run.count];
        cells.extend_from_slice(&values[..columns]);
    }
    Ok(made(kind, cells, columns))
}

/// The list that a list of tuples of three stands for; None if a row is anything else.
#[pyfunction]
pub(crate) fn _triples(rows: &Bound<'_, PyList>, kind: &str) -> PyResult<Option<Descriptors>> {
    let mut cells = Vec::with_capacity(rows.len() * 3);
    for row in rows {
        let Some(triple) = triple(&row) else {
            return Ok(None);
        };
        cells.extend(triple);
    }
    Ok(Some(made(mem_kind(kind)?, cells, 3)))
}

/// The numbers of a tuple of three; None for anything else.
fn triple(row: &Bound<'_, PyAny>) -> Option<[u64; 3]> {
    let row = row.cast_exact::<PyTuple>().ok()?;
    if row.len() != 3 {
        return None;
    }
    let mut cells = [0; 3];
    for (at, cell) in cells.iter_mut().enumerate() {
        let item = row.get_borrowed_item(at).ok()?;
        *cell = match item.cast_exact::<PyInt>() {
            Ok(number) => unsigned(&number)?,
            Err(_) => item.extract().ok()?,
        };
    }
    Some(cells)
}

/// A number's value; None if it has more than 64 bits or is negative.
fn unsigned(number: &Bound<'_, PyInt>) -> Option<u64> {
    // SAFETY: INV-7, PyLong_AsUnsignedLongLong(3) with an int that is borrowed for the call, with
    // the GIL held. It takes no other route than extract(), which looks for __index__ first.
    let value = unsafe { ffi::PyLong_AsUnsignedLongLong(number.as_ptr()) };
    let failed = value == u64::MAX && PyErr::take(number.py()).is_some();
    (!failed).then_some(value)
}

fn widened(cells: &[u64]) -> Vec<u64> {
    let (rows, _) = cells.as_chunks::<3>();
    rows.iter()
        .flat_map(|[addr, len, dev]| [*addr, *len, *dev, *len, 1])
        .collect()
}

/// Which blocks of a list a request uses: all (`None`), or an array or sequence of indices.
pub(crate) fn indices(obj: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<u32>>> {
    let Some(obj) = obj.filter(|obj| !obj.is_none()) else {
        return Ok(None);
    };
    if let Ok(list) = obj.cast_exact::<PyList>() {
        // Not asked for a buffer first: an exception that is thrown away takes longer than it.
        return list
            .iter()
            .map(|item| one_index(&item))
            .collect::<PyResult<_>>()
            .map(Some);
    }
    if obj.is_instance_of::<PyBytes>() || obj.is_instance_of::<PyDict>() {
        return Err(PyTypeError::new_err("indices are a sequence of integers"));
    }
    if let Ok(buffer) = Buffer::items(obj) {
        return from_index_array(&buffer).map(Some);
    }
    if obj.getattr("dtype").is_ok() {
        return Err(misuse("index arrays are contiguous"));
    }
    let mut found = Vec::with_capacity(obj.len().unwrap_or(0));
    for item in obj.try_iter()? {
        found.push(one_index(&item?)?);
    }
    Ok(Some(found))
}

fn from_index_array(buffer: &Buffer<'_>) -> PyResult<Vec<u32>> {
    let bytes = buffer.bytes();
    let cells = |size: usize| bytes.chunks_exact(size);
    let signed = match buffer.letter() {
        Some(b'b' | b'h' | b'i' | b'l' | b'q') => true,
        Some(b'B' | b'H' | b'I' | b'L' | b'Q') => false,
        _ => return Err(misuse("an index array has integers")),
    };
    if buffer.dims() > 1 {
        return Err(misuse("an index array has one dimension"));
    }
    let wide = |cell: &[u8]| {
        let mut value = [0; 8];
        value[..cell.len()].copy_from_slice(cell);
        let unused = 64 - 8 * cell.len() as u32;
        let value = u64::from_le_bytes(value) << unused;
        if signed {
            value.cast_signed() >> unused
        } else {
            i64::try_from(value >> unused).unwrap_or(i64::MAX)
        }
    };
    match (buffer.item_size(), signed) {
        (4, false) => Ok(cells(4)
            .filter_map(|cell| cell.first_chunk().map(|c| u32::from_ne_bytes(*c)))
            .collect()),
        (size @ (1 | 2 | 4 | 8), _) => cells(size).map(|cell| index(wide(cell))).collect(),
        (size, _) => Err(misuse(format!("an index does not have {size} bytes"))),
    }
}

fn one_index(item: &Bound<'_, PyAny>) -> PyResult<u32> {
    if let Ok(number) = item.cast_exact::<PyInt>()
        && let Some(value) = unsigned(number)
        && let Ok(value) = u32::try_from(value)
    {
        return Ok(value);
    }
    index(item.extract()?)
}

fn index(value: i64) -> PyResult<u32> {
    u32::try_from(value).map_err(|_| misuse(format!("{value} is no index of a descriptor")))
}
