//! Authentication methods, by their names on the wire.

/// A method that Portside knows, as a server and as a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// `mysql_native_password`
    Native,
    /// `caching_sha2_password`
    Sha2,
    /// `client_ed25519`, MariaDB's
    Ed25519,
    /// `mysql_clear_password`: the password itself, only over a channel that nobody can read.
    Clear,
}

impl Plugin {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Native, Self::Sha2, Self::Ed25519, Self::Clear];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::Sha2 => "caching_sha2_password",
            Self::Ed25519 => "client_ed25519",
            Self::Clear => "mysql_clear_password",
        }
    }

    /// The method of that name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|plugin| plugin.name().as_bytes() == name)
    }
}
