//! The bytes of a portable snapshot, written and read as a stream.
//!
//! ```text
//!   "CASTSNAP" │ version u32 │ frame H │ frame C │ frame C │ … │ frame P, maybe │ frame T │ end of file, or a seal
//!   frame   =  kind u8 │ length u32 │ CRC32C of kind, length and payload u32 │ payload         numbers little-endian
//!   H  castdpb.SnapshotHeader     C  castdpb.SnapshotChunk: rows     T  counts, and the SHA-256 of all before the frame
//!   P  zeros, so that the length is a multiple of 512            seal  the SHA-256 of everything before it, 32 bytes
//! ```
//! What clients save with `snapshot save` is padded and sealed: etcd's tools look for a seal where the length leaves 32 when
//! divided by 512. A member's own files are neither.
//!
//! The CRC finds damage before a chunk is used; counts and SHA-256 find what no single chunk can tell: a missing, doubled
//! or exchanged one. A reader holds one chunk in memory. It trusts no length: memory is taken as bytes arrive. Rows come
//! in the order they were written in; the format gives them no meaning.

use bytes::Bytes;
use castd_backend_api::Table;
use castd_proto::castdpb::{SnapshotChunk, SnapshotHeader, SnapshotRow};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

const MAGIC: &[u8; 8] = b"CASTSNAP";
pub const VERSION: u32 = 1;
const HEADER: u8 = b'H';
const CHUNK: u8 = b'C';
const PADDING: u8 = b'P';
const TRAILER: u8 = b'T';
const FRAME_HEAD_BYTES: usize = 9;

/// What the length of a padded snapshot is a multiple of.
pub const ALIGNMENT_BYTES: u64 = 512;
/// The length of a seal.
pub const SEAL_BYTES: usize = 32;

/// A chunk is written out once its rows are this long.
const CHUNK_BYTES: usize = 256 << 10;
/// No frame is longer. One row has to fit, whatever `--max-request-bytes` allows.
const FRAME_BYTES_MAX: usize = 1 << 30;
/// Memory is taken in steps of this size while a frame arrives.
const READ_STEP_BYTES: usize = 1 << 20;
/// On the wire: tags and lengths of a row, at most.
const ROW_OVERHEAD_BYTES: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("cannot {operation} the snapshot: {source}")]
    Io { operation: &'static str, source: io::Error },
    #[error("this is not a Castd snapshot")]
    Foreign,
    #[error("the snapshot was written by a newer release (format {found}, this one reads up to {VERSION})")]
    NewerFormat { found: u32 },
    #[error("the snapshot is damaged at byte {offset}: {detail}")]
    Damaged { offset: u64, detail: &'static str },
    #[error("a row of {bytes} bytes does not fit into a snapshot")]
    RowTooLarge { bytes: usize },
    #[error(
        "only {free_bytes} bytes are free on the disk of the data directory, too few to write a snapshot beside the data"
    )]
    NoSpace { free_bytes: u64 },
    /// Its content is not what its name or the sender said.
    #[error("the snapshot is another one: {detail}")]
    Unexpected { detail: String },
}

/// One row of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub table: Table,
    pub key: Bytes,
    pub value: Bytes,
}

/// What a complete snapshot is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub chunks: u64,
    pub rows: u64,
    /// Of the file, from the first to the last.
    pub bytes: u64,
    /// Of everything before the trailer.
    pub sha256: [u8; 32],
    /// A seal stands at its end, and fits.
    pub is_sealed: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Trailer {
    #[prost(uint64, tag = "1")]
    chunks: u64,
    #[prost(uint64, tag = "2")]
    rows: u64,
    #[prost(bytes = "vec", tag = "3")]
    sha256: Vec<u8>,
}

/// Writes a snapshot row by row. One that is dropped before [`SnapshotWriter::finish`] is seen to be incomplete.
pub struct SnapshotWriter<W> {
    out: W,
    digest: Sha256,
    summary: Summary,
    /// The frame of the chunk being filled. Rows are encoded into it as they come: a copy each, no allocation.
    chunk: Vec<u8>,
    chunk_rows: u64,
}

impl<W: Write> SnapshotWriter<W> {
    pub fn create(out: W, header: &SnapshotHeader) -> Result<Self, SnapshotError> {
        let summary = Summary::default();
        let mut writer = Self { out, digest: Sha256::new(), summary, chunk: new_frame(), chunk_rows: 0 };
        writer.write(MAGIC)?;
        writer.write(&VERSION.to_le_bytes())?;
        writer.write_message(HEADER, header)?;
        Ok(writer)
    }

    pub fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        let bytes = key.len() + value.len() + ROW_OVERHEAD_BYTES;
        if bytes > FRAME_BYTES_MAX {
            return Err(SnapshotError::RowTooLarge { bytes });
        }
        if self.chunk_rows > 0 && self.chunk.len() + bytes > CHUNK_BYTES {
            self.end_chunk()?;
        }
        encode_row(table, key, value, &mut self.chunk);
        self.chunk_rows += 1;
        Ok(())
    }

    /// Writes the trailer and gives the sink back, not synced.
    pub fn finish(mut self) -> Result<(W, Summary), SnapshotError> {
        self.end_chunk()?;
        self.summary.sha256 = self.digest.clone().finalize().into();
        let trailer = self.trailer();
        self.write_message(TRAILER, &trailer)?;
        self.out.flush().map_err(failed("write"))?;
        Ok((self.out, self.summary))
    }

    /// As [`SnapshotWriter::finish`], with a length that is a multiple of [`ALIGNMENT_BYTES`].
    pub fn finish_padded(mut self) -> Result<(W, Summary), SnapshotError> {
        self.end_chunk()?;
        // The length of a trailer depends on the counts, which are final now, and not on the digest's value.
        let trailer_bytes = FRAME_HEAD_BYTES + self.trailer().encoded_len();
        let unpadded = self.summary.bytes + (FRAME_HEAD_BYTES + trailer_bytes) as u64;
        let padding = unpadded.next_multiple_of(ALIGNMENT_BYTES) - unpadded;
        self.write_frame(PADDING, &mut vec![0; FRAME_HEAD_BYTES + padding as usize])?;
        self.finish()
    }

    fn trailer(&self) -> Trailer {
        let Summary { chunks, rows, sha256, .. } = self.summary;
        Trailer { chunks, rows, sha256: sha256.to_vec() }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.summary.bytes
    }

    fn end_chunk(&mut self) -> Result<(), SnapshotError> {
        if self.chunk_rows == 0 {
            return Ok(());
        }
        let mut frame = std::mem::take(&mut self.chunk);
        self.write_frame(CHUNK, &mut frame)?;
        self.summary.chunks += 1;
        self.summary.rows += self.chunk_rows;
        self.chunk_rows = 0;
        frame.truncate(FRAME_HEAD_BYTES);
        self.chunk = frame;
        Ok(())
    }

    fn write_message(&mut self, kind: u8, message: &impl Message) -> Result<(), SnapshotError> {
        let mut frame = new_frame();
        frame.extend_from_slice(&message.encode_to_vec());
        self.write_frame(kind, &mut frame)
    }

    /// Fills in the head of the frame and writes it.
    fn write_frame(&mut self, kind: u8, frame: &mut [u8]) -> Result<(), SnapshotError> {
        let (head, payload) = frame.split_at_mut(FRAME_HEAD_BYTES);
        let length = u32::try_from(payload.len()).map_err(|_| SnapshotError::RowTooLarge { bytes: payload.len() })?;
        let start = frame_start(kind, length);
        head[..5].copy_from_slice(&start);
        head[5..].copy_from_slice(&frame_checksum(&start, payload).to_le_bytes());
        self.write(frame)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.out.write_all(bytes).map_err(failed("write"))?;
        self.digest.update(bytes);
        self.summary.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn new_frame() -> Vec<u8> {
    vec![0; FRAME_HEAD_BYTES]
}

/// One more of `SnapshotChunk.rows`, as prost would encode it.
fn encode_row(table: Table, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    const ROWS: u8 = 1 << 3 | 2;
    const TABLE: u8 = 1 << 3;
    const KEY: u8 = 2 << 3 | 2;
    const VALUE: u8 = 3 << 3 | 2;
    // Each table is a letter: one byte, and never 0, which would be left out.
    const _: () = assert!((Table::Auth as u32) < 0x80);
    let field = |bytes: &[u8]| match bytes.len() {
        0 => 0,
        length => 1 + encoded_len_varint(length as u64) + length,
    };
    out.push(ROWS);
    encode_varint((2 + field(key) + field(value)) as u64, out);
    out.extend_from_slice(&[TABLE, table as u8]);
    for (tag, bytes) in [(KEY, key), (VALUE, value)] {
        if !bytes.is_empty() {
            out.push(tag);
            encode_varint(bytes.len() as u64, out);
            out.extend_from_slice(bytes);
        }
    }
}

/// Reads a snapshot chunk by chunk, checking as it goes. What it has given out is worth something only once
/// [`SnapshotReader::next_rows`] has answered `None`: before that the rest may turn out to be missing.
pub struct SnapshotReader<R> {
    input: R,
    digest: Sha256,
    header: SnapshotHeader,
    summary: Summary,
    complete: bool,
    ignores_seal: bool,
}

impl<R: Read> SnapshotReader<R> {
    pub fn open(mut input: R) -> Result<Self, SnapshotError> {
        let mut start = [0; MAGIC.len() + 4];
        read_exact(&mut input, &mut start, 0)?;
        let (magic, version) = start.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(SnapshotError::Foreign);
        }
        match version.try_into().map(u32::from_le_bytes).unwrap_or(0) {
            VERSION => {}
            0 => return Err(SnapshotError::Foreign),
            found => return Err(SnapshotError::NewerFormat { found }),
        }
        let summary = Summary { bytes: start.len() as u64, ..Summary::default() };
        let digest = Sha256::new_with_prefix(start);
        let mut reader =
            Self { input, digest, header: SnapshotHeader::default(), summary, complete: false, ignores_seal: false };
        let (kind, payload) = reader.frame()?;
        if kind != HEADER {
            return Err(reader.damaged("there is no header"));
        }
        reader.header = SnapshotHeader::decode(payload).map_err(|_| reader.damaged("the header cannot be read"))?;
        Ok(reader)
    }

    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// A seal that does not fit is as good as one that does.
    pub fn ignoring_seal(self) -> Self {
        Self { ignores_seal: true, ..self }
    }

    /// The rows of the next chunk; `None` once everything was read and found complete.
    pub fn next_rows(&mut self) -> Result<Option<Vec<Row>>, SnapshotError> {
        if self.complete {
            return Ok(None);
        }
        let mut sha256 = self.digest.clone();
        let (mut kind, mut payload) = self.frame()?;
        if kind == PADDING {
            if payload.len() as u64 >= ALIGNMENT_BYTES || payload.iter().any(|byte| *byte != 0) {
                return Err(self.damaged("the padding is none"));
            }
            sha256 = self.digest.clone();
            (kind, payload) = self.frame()?;
            if kind != TRAILER {
                return Err(self.damaged("there is padding in the middle"));
            }
        }
        match kind {
            CHUNK => self.rows(payload).map(Some),
            TRAILER => self.end(payload, sha256).map(|()| None),
            _ => Err(self.damaged("there is a frame of an unknown kind")),
        }
    }

    /// Reads to the end and throws the rows away.
    pub fn verify(mut self) -> Result<(SnapshotHeader, Summary), SnapshotError> {
        while self.next_rows()?.is_some() {}
        Ok((self.header, self.summary))
    }

    /// Of what was read so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    fn rows(&mut self, payload: Bytes) -> Result<Vec<Row>, SnapshotError> {
        let chunk = SnapshotChunk::decode(payload).map_err(|_| self.damaged("a chunk cannot be read"))?;
        self.summary.chunks += 1;
        self.summary.rows += chunk.rows.len() as u64;
        let rows = chunk.rows.into_iter().map(|SnapshotRow { table, key, value }| {
            let table = Table::ALL.into_iter().find(|known| *known as u32 == table)?;
            Some(Row { table, key, value })
        });
        rows.collect::<Option<_>>().ok_or_else(|| self.damaged("a row is of an unknown table"))
    }

    fn end(&mut self, payload: Bytes, sha256: Sha256) -> Result<(), SnapshotError> {
        let trailer = Trailer::decode(payload).map_err(|_| self.damaged("the trailer cannot be read"))?;
        self.summary.sha256 = sha256.finalize().into();
        let Summary { chunks, rows, sha256, .. } = &self.summary;
        if trailer.sha256 != sha256 || trailer.chunks != *chunks || trailer.rows != *rows {
            return Err(self.damaged("the content is not what the trailer says"));
        }
        self.check_seal()?;
        self.complete = true;
        Ok(())
    }

    /// After the trailer comes the end, or a seal and the end.
    fn check_seal(&mut self) -> Result<(), SnapshotError> {
        let mut rest = Vec::with_capacity(SEAL_BYTES + 1);
        let read = self.input.by_ref().take(SEAL_BYTES as u64 + 1).read_to_end(&mut rest);
        read.map_err(failed("read"))?;
        if rest.is_empty() {
            return Ok(());
        }
        if self.ignores_seal && rest.len() <= SEAL_BYTES {
            return Ok(());
        }
        if rest.len() != SEAL_BYTES || !self.summary.bytes.is_multiple_of(ALIGNMENT_BYTES) {
            return Err(self.damaged("something follows the trailer"));
        }
        if *rest != *self.digest.clone().finalize() {
            return Err(self.damaged("the checksum at its end is that of other data"));
        }
        self.summary.bytes += rest.len() as u64;
        self.summary.is_sealed = true;
        Ok(())
    }

    /// The next frame, its checksum verified.
    fn frame(&mut self) -> Result<(u8, Bytes), SnapshotError> {
        let offset = self.summary.bytes;
        let mut head = [0; FRAME_HEAD_BYTES];
        read_exact(&mut self.input, &mut head, offset)?;
        let [kind, l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > FRAME_BYTES_MAX {
            return Err(self.damaged("a frame has an impossible length"));
        }
        let mut payload = Vec::new();
        while payload.len() < length as usize {
            let done = payload.len();
            payload.resize((done + READ_STEP_BYTES).min(length as usize), 0);
            read_exact(&mut self.input, &mut payload[done..], offset)?;
        }
        if frame_checksum(&frame_start(kind, length), &payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(self.damaged("a frame has a wrong checksum"));
        }
        self.digest.update(head);
        self.digest.update(&payload);
        self.summary.bytes += (FRAME_HEAD_BYTES + payload.len()) as u64;
        Ok((kind, payload.into()))
    }

    fn damaged(&self, detail: &'static str) -> SnapshotError {
        SnapshotError::Damaged { offset: self.summary.bytes, detail }
    }
}

fn frame_start(kind: u8, length: u32) -> [u8; 5] {
    let [l0, l1, l2, l3] = length.to_le_bytes();
    [kind, l0, l1, l2, l3]
}

fn frame_checksum(start: &[u8; 5], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(start), payload)
}

fn read_exact(input: &mut impl Read, into: &mut [u8], offset: u64) -> Result<(), SnapshotError> {
    input.read_exact(into).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Damaged { offset, detail: "it ends too early" },
        _ => SnapshotError::Io { operation: "read", source },
    })
}

pub(super) fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { operation, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Rows = Vec<(usize, Vec<u8>, Vec<u8>)>;

    fn header() -> SnapshotHeader {
        SnapshotHeader { format: 1, cluster_id: 7, index: 12, term: 3, revision: 40, ..SnapshotHeader::default() }
    }

    fn written(rows: &Rows) -> Vec<u8> {
        let mut writer = SnapshotWriter::create(Vec::new(), &header()).unwrap();
        for (table, key, value) in rows {
            writer.row(Table::ALL[*table], key, value).unwrap();
        }
        let (bytes, summary) = writer.finish().unwrap();
        assert_eq!((summary.bytes, summary.rows), (bytes.len() as u64, rows.len() as u64));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Rows, SnapshotError> {
        let mut reader = SnapshotReader::open(bytes)?;
        assert_eq!(reader.header(), &header());
        let mut rows = Vec::new();
        while let Some(chunk) = reader.next_rows()? {
            rows.extend(chunk.into_iter().map(|row| {
                let table = Table::ALL.iter().position(|table| *table == row.table).unwrap();
                (table, row.key.to_vec(), row.value.to_vec())
            }));
        }
        assert_eq!(reader.summary().bytes, bytes.len() as u64);
        Ok(rows)
    }

    fn rows() -> impl Strategy<Value = Rows> {
        let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
        prop::collection::vec((0..Table::ALL.len(), bytes(40), bytes(200)), 0..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn what_was_written_is_read(rows in rows()) {
            prop_assert_eq!(read(&written(&rows)).unwrap(), rows);
        }

        #[test]
        fn no_input_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), valid_start in any::<bool>()) {
            let start = written(&vec![]);
            let keep = if valid_start { start.len() - 45 } else { 0 };
            let bytes = [&start[..keep], &bytes].concat();
            prop_assert!(SnapshotReader::open(&bytes[..]).and_then(SnapshotReader::verify).is_err());
        }
    }

    /// As a client saves it.
    fn saved(rows: &Rows) -> Vec<u8> {
        let mut writer = SnapshotWriter::create(Vec::new(), &header()).unwrap();
        for (table, key, value) in rows {
            writer.row(Table::ALL[*table], key, value).unwrap();
        }
        let (data, summary) = writer.finish_padded().unwrap();
        assert_eq!((summary.bytes, summary.bytes % ALIGNMENT_BYTES), (data.len() as u64, 0));
        let seal = Sha256::digest(&data);
        [&data[..], &seal].concat()
    }

    #[test]
    fn what_a_client_saved_is_read_and_its_length_tells_etcds_tools_of_the_seal() {
        for rows in 0..600 {
            let rows: Rows = vec![(1, b"key".to_vec(), vec![7; rows])];
            let saved = saved(&rows);
            assert_eq!(saved.len() % 512, 32);
            assert_eq!(read(&saved).unwrap(), rows);
            let (_, summary) = SnapshotReader::open(&saved[..]).unwrap().verify().unwrap();
            assert!(summary.is_sealed);
        }
        assert_eq!(read(&saved(&many())).unwrap(), many());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_of_a_saved_one_is_found() {
        let verify = |bytes: &[u8]| SnapshotReader::open(bytes).and_then(SnapshotReader::verify);
        let saved = saved(&vec![(1, b"key".to_vec(), b"value".to_vec())]);
        let data = saved.len() - SEAL_BYTES;
        for at in 0..saved.len() {
            match verify(&saved[..at]) {
                // Whole, but for the seal: whoever needs one looks for it.
                Ok((_, summary)) => assert!(at == data && !summary.is_sealed, "cut at {at}"),
                Err(error) => assert!(matches!(error, SnapshotError::Damaged { .. }), "cut at {at}: {error}"),
            }
            let mut damaged = saved.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(verify(&damaged).is_err(), "byte {at}");
        }
        assert!(verify(&[&saved[..], &[0]].concat()).is_err(), "something follows");
        let other = Sha256::digest(b"other data");
        let error = verify(&[&saved[..data], &other].concat()).err().unwrap();
        assert!(error.to_string().ends_with("the checksum at its end is that of other data"), "{error}");
    }

    fn many() -> Rows {
        (0..2000).map(|at| (at % 6, vec![at as u8; 20], vec![at as u8; 700])).collect()
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let small = written(&vec![(0, b"key".to_vec(), b"value".to_vec()), (3, vec![], vec![9; 100])]);
        for at in 0..small.len() {
            assert!(read(&small[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = small.clone();
                damaged[at] ^= 1 << bit;
                let found = SnapshotReader::open(&damaged[..]).and_then(SnapshotReader::verify);
                assert!(found.is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(read(&[&small[..], &[0]].concat()).is_err(), "something follows");
    }

    #[test]
    fn long_snapshots_have_many_chunks_and_a_missing_or_exchanged_one_is_found() {
        let bytes = written(&many());
        assert_eq!(read(&bytes).unwrap(), many());
        let mut frames = vec![];
        let mut at = MAGIC.len() + 4;
        while at < bytes.len() {
            let length = u32::from_le_bytes(bytes[at + 1..at + 5].try_into().unwrap()) as usize;
            frames.push(&bytes[at..at + FRAME_HEAD_BYTES + length]);
            at += FRAME_HEAD_BYTES + length;
        }
        assert!(frames.len() > 5);
        let joined = |frames: Vec<&[u8]>| [&bytes[..MAGIC.len() + 4], &frames.concat()].concat();
        assert!(read(&joined(frames.clone())).is_ok());
        for broken in 1..frames.len() - 1 {
            let mut missing = frames.clone();
            missing.remove(broken);
            assert!(read(&joined(missing)).is_err());
            let mut doubled = frames.clone();
            doubled.insert(broken, frames[broken]);
            assert!(read(&joined(doubled)).is_err());
        }
        let mut exchanged = frames.clone();
        exchanged.swap(1, 2);
        assert!(read(&joined(exchanged)).is_err());
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let many = (into.len() as u64).min(self.0) as usize;
                self.0 -= many as u64;
                into[..many].fill(0xff);
                Ok(many)
            }
        }
        let start =
            [&MAGIC[..], &VERSION.to_le_bytes(), &frame_start(HEADER, FRAME_BYTES_MAX as u32), &[0; 4]].concat();
        let error = SnapshotReader::open(start.as_slice().chain(Endless(3 << 20))).err().unwrap();
        assert!(matches!(error, SnapshotError::Damaged { detail: "it ends too early", .. }));
        let start = [&MAGIC[..], &VERSION.to_le_bytes(), &frame_start(HEADER, u32::MAX), &[0; 4]].concat();
        let error = SnapshotReader::open(start.as_slice().chain(Endless(u64::MAX))).err().unwrap();
        assert!(matches!(error, SnapshotError::Damaged { detail: "a frame has an impossible length", .. }));
    }

    #[test]
    fn other_files_and_newer_formats_are_named() {
        let open = |bytes: &[u8]| SnapshotReader::open(bytes).err();
        assert!(matches!(open(b"SQLite format 3\0"), Some(SnapshotError::Foreign)));
        assert!(matches!(open(b"CASTSNAP\x02\0\0\0"), Some(SnapshotError::NewerFormat { found: 2 })));
        assert!(matches!(open(b""), Some(SnapshotError::Damaged { .. })));
    }
}
