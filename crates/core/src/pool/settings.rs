//! The SET statements that make up a session's settings.
//!
//! Each assigns plain values (`crate::sql`), so running them in order on a connection in its starting state
//! gives the same state again, whatever the variables are. A statement that comes again replaces itself.

/// Bytes of all statements together; a session with more is pinned.
const BYTES_MAX: usize = 4 * 1024;
/// Statements; a session with more is pinned.
const COUNT_MAX: usize = 16;

/// SET statements in the order in which they take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings(Vec<Box<[u8]>>);

impl Settings {
    /// Nothing set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a statement. False: there are too many, and nothing was added.
    pub fn add(&mut self, statement: &[u8]) -> bool {
        // The later one alone decides: it assigns all that the earlier one assigned.
        self.0.retain(|earlier| **earlier != *statement);
        let bytes: usize = self.0.iter().map(|s| s.len()).sum();
        if self.0.len() >= COUNT_MAX || bytes + statement.len() > BYTES_MAX {
            return false;
        }
        self.0.push(statement.into());
        true
    }

    /// Back to the starting state.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to be run where `present` is in force; None: only from the starting state.
    pub fn after<'a>(&'a self, present: &Self) -> Option<&'a [Box<[u8]>]> {
        self.0.strip_prefix(&present.0[..])
    }

    /// Whether these are `earlier` and then this statement: run again, it changes nothing.
    pub fn are(&self, earlier: &Self, last: &[u8]) -> bool {
        let split = self.0.split_last();
        split.is_some_and(|(own, before)| **own == *last && *before == earlier.0[..])
    }

    /// All statements.
    pub fn all(&self) -> &[Box<[u8]>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    fn settings(statements: &[&str]) -> Settings {
        let mut settings = Settings::new();
        for statement in statements {
            assert!(settings.add(statement.as_bytes()));
        }
        settings
    }

    #[test]
    fn a_repeated_statement_counts_once_and_last() {
        let twice = settings(&["SET a=1", "SET b=1", "SET a=1"]);
        assert_eq!(twice, settings(&["SET b=1", "SET a=1"]));
    }

    #[test]
    fn only_what_is_missing_is_run() {
        let want = settings(&["SET a=1", "SET b=1"]);
        assert_eq!(want.after(&settings(&["SET a=1"])).unwrap().len(), 1);
        assert_eq!(want.after(&want).unwrap().len(), 0);
        assert_eq!(want.after(&settings(&["SET b=1"])), None);
        assert_eq!(settings(&[]).after(&want), None);
    }

    #[test]
    fn what_was_run_last_may_be_run_again() {
        let present = settings(&["SET a=1", "SET b=1"]);
        assert!(present.are(&settings(&["SET a=1"]), b"SET b=1"));
        assert!(!present.are(&settings(&["SET b=1"]), b"SET a=1"));
        assert!(!present.are(&settings(&[]), b"SET b=1"));
        assert!(!settings(&[]).are(&settings(&[]), b"SET b=1"));
    }

    #[test]
    fn too_many_are_refused() {
        let mut full = Settings::new();
        for n in 0..16 {
            assert!(full.add(format!("SET a{n}=1").as_bytes()));
        }
        assert!(!full.add(b"SET z=1"));
        assert!(!Settings::new().add(&[b'x'; 5000]));
    }
}
