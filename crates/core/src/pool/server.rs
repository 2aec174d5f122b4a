//! What is known about a server from its greeting.

use portside_proto::login::Greeting;

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// As its greeting has it, with MariaDB's prefix.
    pub version: String,
    /// MariaDB or MySQL.
    pub is_mariadb: bool,
    /// Capability flags, MariaDB's own in the upper half.
    pub capabilities: u64,
    /// Default collation's number.
    pub collation: u8,
    /// Default authentication plugin.
    pub plugin: String,
}

impl From<&Greeting> for Server {
    fn from(greeting: &Greeting) -> Self {
        // MariaDB before 11 puts 5.5.5- in front, for replicas that compare versions.
        let prefixed = greeting.is_mariadb && greeting.version.starts_with("10.");
        Self {
            version: if prefixed {
                format!("5.5.5-{}", greeting.version)
            } else {
                greeting.version.clone()
            },
            is_mariadb: greeting.is_mariadb,
            capabilities: greeting.all_capabilities(),
            collation: greeting.collation,
            plugin: greeting.plugin.clone(),
        }
    }
}
