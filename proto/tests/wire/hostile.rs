//! Bytes nobody sane would send: decoders answer with an error or a message, and nothing else.

use castd_proto::etcdserverpb::{TxnRequest, WatchCreateRequest};
use proptest::{collection::vec, prelude::*, sample::Index};
use prost::{Message, encoding::encode_varint};

use crate::{CASES, Case, notation};

/// What was read once is written and read again unchanged.
fn read(case: &Case, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(once) = (case.reencode)(bytes) {
        prop_assert_eq!((case.reencode)(&once), Ok(once), "{}", case.name);
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_never_panic_a_decoder(bytes in vec(any::<u8>(), 0..96)) {
        for case in CASES.iter() {
            read(case, &bytes)?;
        }
    }

    #[test]
    fn a_damaged_message_never_panics_a_decoder(damage in vec((any::<Index>(), any::<u8>()), 1..4), cut in any::<Index>()) {
        for case in CASES.iter().filter(|case| !case.expected.is_empty()) {
            let mut bytes = case.expected.clone();
            for (place, byte) in &damage {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
            read(case, &bytes)?;
            read(case, &bytes[..cut.index(bytes.len())])?;
        }
    }
}

/// A transaction whose success branch is a transaction, and so on.
fn nested_transactions(depth: usize) -> Vec<u8> {
    let field = |number_and_type: u8, body: Vec<u8>| {
        let mut field = vec![number_and_type];
        encode_varint(body.len() as u64, &mut field);
        field.extend(body);
        field
    };
    (0..depth).fold(Vec::new(), |inner, _| field(0x12, field(0x22, inner)))
}

#[test]
fn transactions_nested_without_end_are_refused_before_the_stack_is() {
    assert!(TxnRequest::decode(nested_transactions(40).as_slice()).is_ok());
    assert!(TxnRequest::decode(nested_transactions(5_000).as_slice()).is_err());
}

#[test]
fn filters_are_read_packed_or_one_by_one() {
    let packed = WatchCreateRequest::decode(notation::bytes("2a 02 00 01").as_slice());
    let one_by_one = WatchCreateRequest::decode(notation::bytes("28 00 28 01").as_slice());
    assert_eq!(packed, one_by_one);
    assert_eq!(packed.map(|request| request.filters), Ok(vec![0, 1]));
}

#[test]
fn fields_and_enum_values_of_a_later_release_are_no_error() {
    let request = WatchCreateRequest::decode(notation::bytes("0a 01 'k' 28 63 f2 01 02 08 01").as_slice());
    assert_eq!(
        request,
        Ok(WatchCreateRequest { key: "k".into(), filters: vec![0x63], ..WatchCreateRequest::default() })
    );
}
