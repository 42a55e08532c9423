//! What the gateway answers.
