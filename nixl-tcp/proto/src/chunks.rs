//! Which chunks of a request have arrived; shared by the streams that receive them.

use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Release},
};

use crate::ProtocolError;

/// Counts the chunks of one request. Each may arrive once.
#[derive(Debug, Default)]
pub struct ChunkBook {
    chunks: u32,
    seen: Vec<AtomicU64>,
    left: AtomicU32,
}

impl ChunkBook {
    /// Makes room for requests of `chunks` chunks; allocates only above the largest number so far.
    pub fn resize(&mut self, chunks: u32) {
        self.chunks = chunks;
        self.seen.clear();
        self.seen
            .resize_with(chunks.div_ceil(64) as usize, AtomicU64::default);
        self.reset();
    }

    /// Starts over for another request of as many chunks. No thread may be counting.
    pub fn reset(&self) {
        for word in &self.seen {
            word.store(0, Release);
        }
        self.left.store(self.chunks, Release);
    }

    /// Chunk `index` begins.
    ///
    /// # Errors
    /// `UnknownChunk` if the request has no such chunk or it began before.
    pub fn begin(&self, index: u32) -> Result<(), ProtocolError> {
        let word = self
            .seen
            .get(index as usize / 64)
            .filter(|_| index < self.chunks);
        let word = word.ok_or(ProtocolError::UnknownChunk)?;
        let bit = 1 << (index % 64);
        if word.fetch_or(bit, AcqRel) & bit != 0 {
            Err(ProtocolError::UnknownChunk)
        } else {
            Ok(())
        }
    }

    /// A chunk that began is in place; `true` for the last one.
    pub fn done(&self) -> bool {
        self.left.fetch_sub(1, AcqRel) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_counts_once() {
        let mut book = ChunkBook::default();
        book.resize(65);
        assert_eq!(book.begin(65), Err(ProtocolError::UnknownChunk));
        assert_eq!(book.begin(u32::MAX), Err(ProtocolError::UnknownChunk));
        for i in 0..65 {
            assert_eq!(book.begin(i), Ok(()));
            assert_eq!(book.begin(i), Err(ProtocolError::UnknownChunk));
            assert_eq!(book.done(), i == 64);
        }
        book.resize(1);
        assert_eq!(
            book.begin(1),
            Err(ProtocolError::UnknownChunk),
            "bits of the last request stay"
        );
        assert_eq!(book.begin(0), Ok(()));
        assert!(book.done());
    }
}
