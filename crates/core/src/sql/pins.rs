//! Why a session keeps its connection, as a set, and what each reason leaves behind.

use crate::reason::Pin;

/// A set of pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u32);

impl Pins {
    /// Nothing pins.
    pub const NONE: Self = Self(0);

    /// This one alone.
    pub const fn of(pin: Pin) -> Self {
        Self(1 << pin as u8)
    }

    /// Adds one.
    pub fn add(&mut self, pin: Pin) {
        self.0 |= 1 << pin as u8;
    }

    /// Takes one away.
    pub fn remove(&mut self, pin: Pin) {
        self.0 &= !(1 << pin as u8);
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether nothing pins.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this one is in it.
    pub const fn has(self, pin: Pin) -> bool {
        self.0 & (1 << pin as u8) != 0
    }

    /// What views show: the one that lasts longest, of equals the first in declaration order.
    pub fn first(self) -> Option<Pin> {
        let all = Pin::ALL.iter().copied().filter(|pin| self.has(*pin));
        all.min_by_key(|pin| match pin {
            Pin::Warnings | Pin::RowCount | Pin::FoundRows => 2,
            Pin::Transaction | Pin::Autocommit | Pin::Statements => 1,
            _ => 0,
        })
    }

    /// Those that leave a trace on the connection, so that it must be reset before others use it.
    pub fn leave_a_trace(self) -> bool {
        self.without_passing() != Self::NONE
    }

    /// Those after which a reset may not be enough: what ran is not known, and roles or a resource group
    /// outlive COM_RESET_CONNECTION.
    pub fn leave_a_doubt(self) -> bool {
        [
            Pin::Statement,
            Pin::Call,
            Pin::Long,
            Pin::Unreadable,
            Pin::Function,
            Pin::TextPrepare,
        ]
        .into_iter()
        .any(|pin| self.has(pin))
    }

    /// Those of which a session may keep a role or a schema through COM_RESET_CONNECTION.
    pub fn outlive_a_reset(self) -> bool {
        let mut left = self;
        left.remove(Pin::Unreadable);
        left.leave_a_doubt()
    }

    /// Those that are more than a wait for what the next statement may ask.
    fn without_passing(self) -> Self {
        let mut left = self;
        for pin in [Pin::Warnings, Pin::RowCount, Pin::FoundRows] {
            left.remove(pin);
        }
        left
    }

    /// Those that hold until the session ends, whatever it does.
    pub fn are_permanent(self) -> bool {
        let mut left = self.without_passing();
        for pin in [Pin::Transaction, Pin::Autocommit, Pin::Statements] {
            left.remove(pin);
        }
        left != Self::NONE
    }

    /// Whether there are only such as wait for what the next statement may ask.
    pub fn only_pass(self) -> bool {
        !self.is_empty() && !self.leave_a_trace()
    }
}
