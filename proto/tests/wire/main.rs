//! The wire contract, pinned byte by byte: no change of a .proto file that a client, a peer or a data directory would
//! notice passes unnoticed.
//!
//! The expected bytes are written by hand from etcd's field tables, never copied from what the code produced. A case
//! sets every field of its message (a message with a `oneof` has a case per branch); that no message and no field is
//! missing is checked against the descriptors.

mod cases;
mod hostile;
mod inventory;
mod notation;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use castd_proto::FILE_DESCRIPTOR_SET;
use prost::{DecodeError, Message};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// One message with every field set, and what it must look like.
struct Case {
    /// Package and message, `etcdserverpb.PutRequest`.
    name: &'static str,
    expected: Vec<u8>,
    encoded: Vec<u8>,
    decodes_to_the_value: bool,
    reencode: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

fn case<M: Message + Default + PartialEq>(name: &'static str, value: M, expected: &str) -> Case {
    let expected = notation::bytes(expected);
    Case {
        name,
        encoded: value.encode_to_vec(),
        decodes_to_the_value: M::decode(expected.as_slice()) == Ok(value),
        expected,
        reencode: |bytes| M::decode(bytes).map(|value| value.encode_to_vec()),
    }
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(cases::all);

static DESCRIPTORS: LazyLock<FileDescriptorSet> =
    LazyLock::new(|| FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("build.rs wrote a descriptor set"));

/// Every message by its full name.
fn messages() -> BTreeMap<String, &'static DescriptorProto> {
    let of_file = |file: &'static prost_types::FileDescriptorProto| {
        file.message_type.iter().map(move |message| (format!("{}.{}", file.package(), message.name()), message))
    };
    let messages: BTreeMap<_, _> = DESCRIPTORS.file.iter().flat_map(of_file).collect();
    let nested = messages.values().map(|message| message.nested_type.len()).sum::<usize>();
    assert_eq!(nested, 0, "a message inside a message would not be looked at");
    messages
}

/// Every enum by its full name.
fn enums() -> BTreeMap<String, &'static EnumDescriptorProto> {
    let mut enums = BTreeMap::new();
    for file in &DESCRIPTORS.file {
        for item in &file.enum_type {
            enums.insert(format!("{}.{}", file.package(), item.name()), item);
        }
        for message in &file.message_type {
            for item in &message.enum_type {
                enums.insert(format!("{}.{}.{}", file.package(), message.name(), item.name()), item);
            }
        }
    }
    enums
}

#[test]
fn every_message_has_the_bytes_its_field_table_says() {
    for case in CASES.iter() {
        assert_eq!(notation::hex(&case.encoded), notation::hex(&case.expected), "encoding {}", case.name);
    }
}

#[test]
fn every_message_is_read_back_from_those_bytes() {
    for case in CASES.iter() {
        assert!(case.decodes_to_the_value, "decoding {}", case.name);
        assert_eq!((case.reencode)(&case.expected).as_ref(), Ok(&case.expected), "decoding {}", case.name);
    }
}

#[test]
fn no_message_and_no_field_is_without_a_case() {
    let mut pinned: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for case in CASES.iter() {
        pinned.entry(case.name.to_owned()).or_default().extend(notation::field_numbers(&case.expected));
    }
    let declared: BTreeMap<String, BTreeSet<i32>> = messages()
        .into_iter()
        .map(|(name, message)| (name, message.field.iter().map(|field| field.number()).collect()))
        .collect();
    assert_eq!(pinned, declared);
}
