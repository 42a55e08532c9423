//! JSON → message: protobuf's JSON mapping, straight from text to the bytes of the message.
//!
//! ```text
//!   {"key":"Zm9v","limit":"2"} ──serde_json──▶ seeds, one for each field ──▶ 0a 03 66 6f 6f 18 02
//! ```
//! Nothing stands in between, so that a request costs its text and its bytes and no tree of values. Taken are: etcd's field
//! names or their lowerCamelCase form; integers as numbers or in strings; base64 of both alphabets, padded or not; enums by
//! name or number. `null` is a default, unknown fields are skipped. Refused are: a field given twice, two members of a
//! oneof, an enum's unknown name, and nesting deeper than serde_json's 128.

use super::schema::{EnumNames, Field, Kind, MessageShape, Schema};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Appends the message that `json`, one object, stands for.
///
/// # Errors
/// What is wrong with the text, and where.
pub fn decode(shape: &MessageShape, json: &[u8], out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    MessageSeed { shape, out }.deserialize(&mut deserializer)?;
    deserializer.end()
}

struct MessageSeed<'a> {
    shape: &'a MessageShape,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object: {}", self.shape.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut given, mut set) = (0, 0);
        while let Some(field) = map.next_key_seed(NameSeed(self.shape))? {
            let Some(field) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if given & field.bit != 0 {
                return Err(Error::custom(format_args!("the field {:?} is given twice", field.name)));
            }
            given |= field.bit;
            if map.next_value_seed(FieldSeed { field, out: self.out })? {
                if set & field.oneof != 0 {
                    let text = format_args!("{:?} and another field of the same oneof are given", field.name);
                    return Err(Error::custom(text));
                }
                set |= field.bit;
            }
        }
        Ok(())
    }
}

struct NameSeed<'a>(&'a MessageShape);

impl<'de, 'a> DeserializeSeed<'de> for NameSeed<'a> {
    type Value = Option<&'a Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for NameSeed<'a> {
    type Value = Option<&'a Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.by_name(name))
    }
}

/// Answers whether there is a value: `null` is none.
struct FieldSeed<'a> {
    field: &'a Field,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {:?}", self.field.name)
    }

    fn visit_none<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        let FieldSeed { field, out } = self;
        if field.repeated {
            deserializer.deserialize_seq(ListSeed { field, out })?;
        } else {
            ValueSeed { field, out }.deserialize(deserializer)?;
        }
        Ok(true)
    }
}

struct ListSeed<'a> {
    field: &'a Field,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list for {:?}", self.field.name)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(ValueSeed { field: self.field, out: self.out })?.is_some() {}
        Ok(())
    }
}

/// One value with its tag. Integers of lists are written one by one, which every reader of packed ones has to take.
struct ValueSeed<'a> {
    field: &'a Field,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let ValueSeed { field, out } = self;
        let range = |low: i128, high: i128| IntegerSeed { field, low, high };
        let number = match field.kind {
            Kind::Bool => deserializer.deserialize_bool(BoolSeed(field)).map(u64::from)?,
            Kind::Int32 => deserializer.deserialize_any(range(i32::MIN.into(), i32::MAX.into()))?,
            Kind::Int64 => deserializer.deserialize_any(range(i64::MIN.into(), i64::MAX.into()))?,
            Kind::Uint32 => deserializer.deserialize_any(range(0, u32::MAX.into()))?,
            Kind::Uint64 => deserializer.deserialize_any(range(0, u64::MAX.into()))?,
            Kind::Enum(place) => {
                deserializer.deserialize_any(EnumSeed { field, names: Schema::get().enumeration(place) })?
            }
            Kind::String => return deserializer.deserialize_str(TextSeed { field, out, is_base64: false }),
            Kind::Bytes => return deserializer.deserialize_str(TextSeed { field, out, is_base64: true }),
            Kind::Message(place) => {
                encode_key(field.number, WireType::LengthDelimited, out);
                let shape = Schema::get().message(place);
                return with_length(out, |out| MessageSeed { shape, out }.deserialize(deserializer));
            }
        };
        if number != 0 || has_presence(field) {
            encode_key(field.number, WireType::Varint, out);
            encode_varint(number, out);
        }
        Ok(())
    }
}

/// Whether a value counts even if it is the default.
fn has_presence(field: &Field) -> bool {
    field.repeated || field.oneof != 0
}

/// Runs `write` and puts the length of what it wrote in front of that. Most lengths take one byte, for which there is room.
fn with_length<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let start = out.len();
    out.push(0);
    write(out)?;
    let length = (out.len() - start - 1) as u64;
    let mut prefix = Vec::with_capacity(10);
    encode_varint(length, &mut prefix);
    out.splice(start..=start, prefix);
    Ok(())
}

struct BoolSeed<'a>(&'a Field);

impl Visitor<'_> for BoolSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "true or false for {:?}", self.0.name)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }
}

/// The integer as a varint holds it.
struct IntegerSeed<'a> {
    field: &'a Field,
    low: i128,
    high: i128,
}

impl IntegerSeed<'_> {
    fn checked<E: Error>(&self, value: i128) -> Result<u64, E> {
        if (self.low..=self.high).contains(&value) {
            // Negative ones are sign-extended to 64 bits.
            Ok(value as u64)
        } else {
            Err(E::custom(format_args!("{value} is out of range for {:?}", self.field.name)))
        }
    }
}

impl Visitor<'_> for IntegerSeed<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an integer, or one in a string, for {:?}", self.field.name)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        self.checked(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        self.checked(value.into())
    }

    /// `2e3`, `2.0`; and integers of more than 64 bits, which come rounded and are none of ours.
    fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
        if value.fract() == 0.0 && value.abs() <= 2f64.powi(53) {
            self.checked(value as i128)
        } else {
            Err(E::custom(format_args!("{value} is not an integer in the range of {:?}", self.field.name)))
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        // The grammar of JSON's numbers, without the blanks that JSON allows around them.
        let number = serde_json::from_str::<serde_json::Number>(text).ok();
        let number = number.filter(|_| !text.starts_with(char::is_whitespace) && !text.ends_with(char::is_whitespace));
        let Some(number) = number else {
            return Err(E::custom(format_args!("{text:?} is not an integer for {:?}", self.field.name)));
        };
        match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(value), _, _) => self.visit_u64(value),
            (_, Some(value), _) => self.visit_i64(value),
            (_, _, value) => self.visit_f64(value.unwrap_or(f64::NAN)),
        }
    }
}

struct EnumSeed<'a> {
    field: &'a Field,
    names: &'a EnumNames,
}

impl EnumSeed<'_> {
    fn integer(&self) -> IntegerSeed<'_> {
        IntegerSeed { field: self.field, low: i32::MIN.into(), high: i32::MAX.into() }
    }
}

impl Visitor<'_> for EnumSeed<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name or number of a {}", self.names.name)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        self.integer().visit_u64(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        self.integer().visit_i64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
        self.integer().visit_f64(value)
    }

    /// etcd 3.4 refuses names that it does not know, and later ones take them for the default. We would rather not compare
    /// versions when somebody asked for values and could not spell.
    fn visit_str<E: Error>(self, name: &str) -> Result<u64, E> {
        match self.names.number(name) {
            Some(number) => Ok(i64::from(number) as u64),
            None => Err(E::custom(format_args!("unknown value {name:?} for enum {}", self.names.name))),
        }
    }
}

/// Strings, and bytes, which are strings of base64.
struct TextSeed<'a> {
    field: &'a Field,
    out: &'a mut Vec<u8>,
    is_base64: bool,
}

impl Visitor<'_> for TextSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_base64 { "a string of base64" } else { "a string" };
        write!(f, "{what} for {:?}", self.field.name)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let TextSeed { field, out, is_base64 } = self;
        if text.is_empty() && !has_presence(field) {
            return Ok(());
        }
        encode_key(field.number, WireType::LengthDelimited, out);
        with_length(out, |out| {
            if !is_base64 {
                out.extend_from_slice(text.as_bytes());
                return Ok(());
            }
            // As Go: what `base64` wraps is taken, too.
            let is_wrapped = text.contains(['\n', '\r']);
            let text = if is_wrapped { Cow::Owned(text.replace(['\n', '\r'], "")) } else { Cow::Borrowed(text) };
            let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
            let decoded = engine.decode_vec(text.as_bytes(), out);
            decoded.map_err(|error| E::custom(format_args!("{:?} is not base64: {error}", field.name)))
        })
    }
}
