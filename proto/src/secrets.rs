//! `Debug` for the messages that carry a password, its hash or a token: everything but those.
//!
//! Messages end up in logs, traces and panics by `{:?}`; a secret must not, whoever prints it. Which messages these are
//! stands in `build.rs` (`SECRET_MESSAGES`): one that is listed there and not here does not compile.

use std::fmt::{Debug, Formatter, Result};

use crate::{
    authpb::User,
    etcdserverpb::{AuthUserAddRequest, AuthUserChangePasswordRequest, AuthenticateRequest, AuthenticateResponse},
};

impl Debug for User {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let Self { name, password: _, roles, options } = self;
        out.debug_struct("User")
            .field("name", name)
            .field("roles", roles)
            .field("options", options)
            .finish_non_exhaustive()
    }
}

impl Debug for AuthenticateRequest {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let Self { name, password: _ } = self;
        out.debug_struct("AuthenticateRequest").field("name", name).finish_non_exhaustive()
    }
}

impl Debug for AuthenticateResponse {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let Self { header, token: _ } = self;
        out.debug_struct("AuthenticateResponse").field("header", header).finish_non_exhaustive()
    }
}

impl Debug for AuthUserAddRequest {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let Self { name, password: _, options, hashed_password: _ } = self;
        out.debug_struct("AuthUserAddRequest").field("name", name).field("options", options).finish_non_exhaustive()
    }
}

impl Debug for AuthUserChangePasswordRequest {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let Self { name, password: _, hashed_password: _ } = self;
        out.debug_struct("AuthUserChangePasswordRequest").field("name", name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_message_shows_who_but_no_secret() {
        let secret = || "hunter2".to_owned();
        let name = || "alice".to_owned();
        let printed = [
            format!("{:?}", User { name: "alice".into(), password: "hunter2".into(), ..User::default() }),
            format!("{:?}", AuthenticateRequest { name: name(), password: secret() }),
            format!(
                "{:?}",
                AuthUserAddRequest { name: name(), password: secret(), hashed_password: secret(), options: None }
            ),
            format!(
                "{:?}",
                AuthUserChangePasswordRequest { name: name(), password: secret(), hashed_password: secret() }
            ),
        ];
        for text in printed {
            assert!(text.contains("alice"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let response = format!("{:?}", AuthenticateResponse { header: None, token: secret() });
        assert!(!response.contains("hunter2"), "{response}");
    }
}
