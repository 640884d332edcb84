//! TCP with nothing around it: a word to start a READ, a word to end a WRITE.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::crew::Worker;
use crate::layout::Piece;

/// Most buffers that one system call takes.
const BATCH: usize = 1024;
/// A stream that stays silent for so long ends the measurement.
const SILENCE: Duration = Duration::from_secs(30);
const WORD: [u8; 8] = *b"nixl-raw";

/// One stream, and the bytes that it moves in each pass.
pub(crate) struct Stream<'a> {
    socket: TcpStream,
    blocks: Vec<&'a mut [u8]>,
    sends: bool,
}

/// Gives each stream its share of the pieces, at least one, and the bytes of `region` that these name.
/// `offset` tells where a piece lies in this process.
pub(crate) fn streams<'a>(
    sockets: Vec<TcpStream>,
    region: &'a mut [u8],
    pieces: &[Piece],
    offset: impl Fn(&Piece) -> usize,
    sends: bool,
) -> io::Result<Vec<Stream<'a>>> {
    let count = sockets.len();
    let mut blocks = carve(region, pieces, offset).into_iter();
    let streams = sockets.into_iter().enumerate();
    streams
        .map(|(number, socket)| {
            let share = (number + 1) * pieces.len() / count - number * pieces.len() / count;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(SILENCE))?;
            socket.set_write_timeout(Some(SILENCE))?;
            Ok(Stream {
                socket,
                blocks: blocks.by_ref().take(share).collect(),
                sends,
            })
        })
        .collect()
}

/// The bytes of each piece, in the order of the pieces.
fn carve<'a>(
    mut region: &'a mut [u8],
    pieces: &[Piece],
    offset: impl Fn(&Piece) -> usize,
) -> Vec<&'a mut [u8]> {
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_unstable_by_key(|&number| offset(&pieces[number]));
    let mut blocks: Vec<&mut [u8]> = pieces.iter().map(|_| Default::default()).collect();
    let mut end = 0;
    for number in order {
        let start = offset(&pieces[number]);
        let rest = &mut region[start - end..];
        (blocks[number], region) = rest.split_at_mut(pieces[number].len);
        end = start + pieces[number].len;
    }
    blocks
}

/// The side that starts each pass and knows when it ended.
impl Worker for Stream<'_> {
    fn pass(&mut self) -> io::Result<()> {
        if self.sends {
            self.send()?;
            self.socket.read_exact(&mut [0; WORD.len()])
        } else {
            self.socket.write_all(&WORD)?;
            self.receive()
        }
    }
}

impl Stream<'_> {
    /// The other side: takes part in passes until the first side closes the stream.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        while self.socket.peek(&mut [0])? > 0 {
            if self.sends {
                self.socket.read_exact(&mut [0; WORD.len()])?;
                self.send()?;
            } else {
                self.receive()?;
                self.socket.write_all(&WORD)?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        for blocks in self.blocks.chunks(BATCH) {
            let mut slices: Vec<IoSlice<'_>> = blocks.iter().map(|b| IoSlice::new(b)).collect();
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let sent = retry(|| self.socket.write_vectored(rest))?;
                IoSlice::advance_slices(&mut rest, sent);
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        for blocks in self.blocks.chunks_mut(BATCH) {
            let slices = blocks.iter_mut().map(|b| IoSliceMut::new(b));
            let mut slices: Vec<IoSliceMut<'_>> = slices.collect();
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let received = retry(|| self.socket.read_vectored(rest))?;
                IoSliceMut::advance_slices(&mut rest, received);
            }
        }
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
