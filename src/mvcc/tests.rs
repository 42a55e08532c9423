//! The store against its model, and against numbers that etcd computed.

use std::sync::Arc;

use castd_backend_api::Backend;
use castd_backend_memory::Memory;
use proptest::prelude::*;

use super::model;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_its_model(entropy in proptest::collection::vec(any::<u64>(), 1..120)) {
        model::walk(&mut |backend| backend.unwrap_or_else(|| Arc::new(Memory::new()) as Arc<dyn Backend>), &entropy);
    }
}
