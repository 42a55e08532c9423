//! What can go wrong with a request, and with the store itself.

use castd_backend_api::BackendError;

use crate::ids::{LeaseId, Revision};

use super::RowKey;

/// A request that the store refused. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum MvccError {
    #[error("revision {requested} has been compacted, the oldest left is {compacted}")]
    Compacted { requested: Revision, compacted: Revision },
    #[error("revision {requested} is in the future, the store is at {current}")]
    FutureRevision { requested: Revision, current: Revision },
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    #[error("lease {0} not found")]
    LeaseNotFound(LeaseId),
    /// Not the request's fault: the owner of the store ends the process.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The rows cannot be read, or say what they cannot say.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("the index names row {}_{} and the backend does not have it", .0.main, .0.sub)]
    RowMissing(RowKey),
    #[error("row {}_{} is damaged", .0.main, .0.sub)]
    RowDamaged(RowKey),
    #[error("a key of a row is damaged: {0:02x?}")]
    RowKeyDamaged(Vec<u8>),
    #[error("the row `{0}` is damaged")]
    MetaDamaged(&'static str),
}

impl From<BackendError> for MvccError {
    fn from(error: BackendError) -> Self {
        Self::Store(error.into())
    }
}

/// A request that breaks the rules of the API whatever the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("key is not provided")]
    EmptyKey,
    /// A txn holds an operation that is none.
    #[error("key not found")]
    KeyNotFound,
    #[error("value is provided")]
    ValueProvided,
    #[error("lease is provided")]
    LeaseProvided,
    #[error("too many operations in txn request")]
    TooManyOps,
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("invalid sort option")]
    InvalidSortOption,
}
