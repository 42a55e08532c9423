//! Message → JSON: protobuf's JSON mapping, straight from the bytes of the message to text.
//!
//! Field names are etcd's (`range_end`, `peerURLs`), 64-bit integers are strings, bytes are base64, enums are names, and
//! defaults are left out, but for members of a oneof. A message costs its bytes, its text and one entry for each of its
//! fields: a range of a million keys is no tree of a million nodes.

use super::schema::{Field, Kind, MessageShape, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::io::Write as _;

/// Messages within messages. prost reads no deeper ones either.
const DEPTH_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("{0} is cut short or damaged")]
    Damaged(String),
    #[error("{message}.{field} is not UTF-8")]
    NotText { message: String, field: String },
    #[error("{0} is nested too deeply")]
    TooDeep(String),
}

/// Appends the JSON of `message`.
///
/// # Errors
/// When that is no message of this shape.
pub fn encode(shape: &MessageShape, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    Encoder { entries: Vec::new(), out }.message(shape, message, DEPTH_MAX)
}

#[derive(Clone, Copy)]
enum Wire<'m> {
    Varint(u64),
    Bytes(&'m [u8]),
}

/// One value of one field.
#[derive(Clone, Copy)]
struct Entry<'m> {
    /// Place of the field in the shape.
    place: usize,
    wire: Wire<'m>,
}

struct Encoder<'m, 'o> {
    /// Of the message at hand and, below, of those around it.
    entries: Vec<Entry<'m>>,
    out: &'o mut Vec<u8>,
}

impl<'m> Encoder<'m, '_> {
    fn message(&mut self, shape: &MessageShape, message: &'m [u8], depth: usize) -> Result<(), EncodeError> {
        let Some(depth) = depth.checked_sub(1) else { return Err(EncodeError::TooDeep(shape.name.clone())) };
        let base = self.entries.len();
        self.read(shape, message)?;
        // The order on the wire is the sender's business. Stable: values of one field keep theirs.
        self.entries[base..].sort_by_key(|entry| entry.place);
        let end = self.entries.len();
        self.out.push(b'{');
        let (mut at, mut is_first) = (base, true);
        while let Some(Entry { place, wire }) = self.entries.get(at).copied().filter(|_| at < end) {
            let values = self.entries[at..end].iter().take_while(|entry| entry.place == place).count();
            let Some(field) = shape.fields.get(place) else { break };
            let last = self.entries[at + values - 1].wire;
            if field.repeated || !is_default(field, last) {
                if !std::mem::take(&mut is_first) {
                    self.out.push(b',');
                }
                // Names are letters, digits and underscores.
                let _ = write!(self.out, "\"{}\":", field.name);
                if field.repeated {
                    self.out.push(b'[');
                    for number in 0..values {
                        if number > 0 {
                            self.out.push(b',');
                        }
                        let wire = self.entries.get(at + number).map_or(wire, |entry| entry.wire);
                        self.value(shape, field, wire, depth)?;
                    }
                    self.out.push(b']');
                } else {
                    self.value(shape, field, last, depth)?;
                }
            }
            at += values;
        }
        self.out.push(b'}');
        self.entries.truncate(base);
        Ok(())
    }

    /// Finds the values of the message, and unpacks packed ones.
    fn read(&mut self, shape: &MessageShape, mut message: &'m [u8]) -> Result<(), EncodeError> {
        let damaged = || EncodeError::Damaged(shape.name.clone());
        while !message.is_empty() {
            let (number, wire_type) = decode_key(&mut message).map_err(|_| damaged())?;
            let wire = match wire_type {
                WireType::Varint => Wire::Varint(decode_varint(&mut message).map_err(|_| damaged())?),
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut message).map_err(|_| damaged())?;
                    let length = usize::try_from(length).map_err(|_| damaged())?;
                    let (bytes, rest) = message.split_at_checked(length).ok_or_else(damaged)?;
                    message = rest;
                    Wire::Bytes(bytes)
                }
                // No field of ours.
                WireType::ThirtyTwoBit => {
                    message = message.get(4..).ok_or_else(damaged)?;
                    continue;
                }
                WireType::SixtyFourBit => {
                    message = message.get(8..).ok_or_else(damaged)?;
                    continue;
                }
                WireType::StartGroup | WireType::EndGroup => return Err(damaged()),
            };
            let Some(place) = shape.place_of(number) else { continue };
            let is_text = matches!(
                shape.fields.get(place).map(|field| field.kind),
                Some(Kind::String | Kind::Bytes | Kind::Message(_))
            );
            match wire {
                Wire::Bytes(_) if is_text => self.entries.push(Entry { place, wire }),
                Wire::Varint(_) if !is_text => self.entries.push(Entry { place, wire }),
                Wire::Bytes(mut packed) => {
                    while !packed.is_empty() {
                        let value = decode_varint(&mut packed).map_err(|_| damaged())?;
                        self.entries.push(Entry { place, wire: Wire::Varint(value) });
                    }
                }
                Wire::Varint(_) => return Err(damaged()),
            }
        }
        Ok(())
    }

    fn value(&mut self, shape: &MessageShape, field: &Field, wire: Wire<'m>, depth: usize) -> Result<(), EncodeError> {
        let out = &mut *self.out;
        // Writing to memory does not fail.
        let _ = match (field.kind, wire) {
            (Kind::Bool, Wire::Varint(value)) => write!(out, "{}", value != 0),
            (Kind::Int32, Wire::Varint(value)) => write!(out, "{}", value as i32),
            (Kind::Int64, Wire::Varint(value)) => write!(out, "\"{}\"", value as i64),
            (Kind::Uint32, Wire::Varint(value)) => write!(out, "{}", value as u32),
            (Kind::Uint64, Wire::Varint(value)) => write!(out, "\"{value}\""),
            (Kind::Enum(place), Wire::Varint(value)) => match Schema::get().enumeration(place).name(value as i32) {
                Some(name) => write!(out, "\"{name}\""),
                None => write!(out, "{}", value as i32),
            },
            (Kind::String, Wire::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes)
                    .map_err(|_| EncodeError::NotText { message: shape.name.clone(), field: field.name.clone() })?;
                serde_json::to_writer(out, text).map_err(std::io::Error::from)
            }
            (Kind::Bytes, Wire::Bytes(bytes)) => {
                out.push(b'"');
                let start = out.len();
                out.resize(start + base64::encoded_len(bytes.len(), true).unwrap_or_default(), 0);
                // There is room for exactly that.
                let _ = STANDARD.encode_slice(bytes, &mut out[start..]);
                out.write_all(b"\"")
            }
            (Kind::Message(place), Wire::Bytes(bytes)) => {
                return self.message(Schema::get().message(place), bytes, depth);
            }
            // `read` has sorted these out.
            _ => return Err(EncodeError::Damaged(shape.name.clone())),
        };
        Ok(())
    }
}

fn is_default(field: &Field, wire: Wire<'_>) -> bool {
    match (field.kind, wire) {
        _ if field.oneof != 0 => false,
        (Kind::Message(_), _) => false,
        (_, Wire::Varint(value)) => value == 0,
        (_, Wire::Bytes(bytes)) => bytes.is_empty(),
    }
}
