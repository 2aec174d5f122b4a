//! What people are told, and for how long it is news: events at most once a minute, and the trouble that a server
//! had last. Shared by all workers; decides nothing about connections.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use arc_swap::ArcSwapOption;

/// Events of one kind and server (or service) are apart.
const TELL_MS: u64 = 60_000;

/// When an event went out last (ms); so many more of its kind are only counted.
#[derive(Debug, Default)]
pub struct Told(AtomicU64);

impl Told {
    /// Whether it is time for another one, which is then taken as told.
    pub fn is_due(&self, now: u64) -> bool {
        let last = self.0.load(SeqCst);
        let is_due = last == 0 || now >= last + TELL_MS;
        is_due && self.0.compare_exchange(last, now, SeqCst, SeqCst).is_ok()
    }
}

/// What went wrong with a server last, in words, and when (ms).
#[derive(Debug, Default)]
pub struct Trouble(ArcSwapOption<(String, u64)>);

impl Trouble {
    /// It happened now.
    pub fn note(&self, text: &str, now: u64) {
        self.0.store(Some((text.to_owned(), now).into()));
    }

    /// The words, while it is not longer ago than `news_ms`.
    pub fn last(&self, now: u64, news_ms: u64) -> Option<String> {
        let (text, at) = &*self.0.load_full()?;
        (now < at + news_ms).then(|| text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{Told, Trouble, TELL_MS};

    #[test]
    fn a_thing_is_told_once_a_minute() {
        let told = Told::default();
        assert!(told.is_due(5) && !told.is_due(5) && !told.is_due(4 + TELL_MS));
        assert!(told.is_due(5 + TELL_MS));
    }

    #[test]
    fn trouble_is_forgotten() {
        let trouble = Trouble::default();
        assert_eq!(trouble.last(0, 10), None);
        trouble.note("first", 1);
        trouble.note("second", 5);
        assert_eq!(trouble.last(14, 10).as_deref(), Some("second"));
        assert_eq!(trouble.last(15, 10), None);
    }
}
