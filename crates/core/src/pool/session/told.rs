//! What a session tells of itself: who it is, what its login was.

use std::sync::Arc;

use super::{Class, Session, User};

impl Session {
    /// The id that its greeting named.
    pub fn thread_id(&self) -> u32 {
        self.thread_id
    }

    /// Whether nobody else can read what its client sends: a password may come as it is.
    pub fn is_secure(&self) -> bool {
        self.channel.is_secure
    }

    /// Its account, once it has logged in.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// What its client calls itself.
    pub fn program(&self) -> Option<&str> {
        self.program.as_deref()
    }

    /// The class of connections it can use.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Commands so far.
    pub fn commands(&self) -> u64 {
        self.commands
    }
}
