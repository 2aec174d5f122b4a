//! A client's reply on its way: where it ends, and, for a client of another class, in the client's form.

use portside_proto::command::{capability, status};
use portside_proto::reframe::Reframe;
use portside_proto::reply::{Error, Outcome};

use super::{Conn, Failure, Phase};
use crate::pool::{Class, Want};

impl Conn {
    /// Whether a client of this class can have it for the command at hand. One of another class only for what cannot pin it:
    /// else it would have to carry replies that cannot be translated.
    pub fn serves(&self, class: Class, want: &Want<'_>) -> bool {
        let may_translate = || want.only_reads && self.is_readable && self.is_autocommit;
        self.class == class || (self.class.is_near(class) && may_translate())
    }

    /// A client of this class has it from now on.
    pub fn lent_to(&mut self, class: Class) {
        self.translates = self.class.is_near(class);
    }

    /// Whether the client that has it is of another class.
    pub fn translates(&self) -> bool {
        self.translates
    }

    pub(super) fn begin_translation(&mut self) {
        let adds_eof = self.class.has(capability::DEPRECATE_EOF);
        let status = self.status & status::LASTING;
        self.reframe = self.translates.then(|| Reframe::new(adds_eof, status));
    }

    /// Looks for the end of the running reply; all bytes up to it are the client's, or up to a request for a file
    /// ([`Self::take_file`]). After a failure nothing of these bytes may be passed on.
    pub fn relay(&mut self, bytes: &mut &[u8]) -> Result<Option<Outcome>, Failure> {
        let is_untouched = self.reply.is_untouched();
        let heard = self.reply.feed(bytes);
        self.heard(heard, is_untouched)
    }

    /// As [`Self::relay`], and gives what the client shall see of the bytes that were taken: these, or what `translated`
    /// has then. The flag: there are more.
    pub fn pass_on<'a>(
        &mut self,
        bytes: &'a mut [u8],
        translated: &'a mut Vec<u8>,
    ) -> (Result<Option<Outcome>, Failure>, &'a [u8], bool) {
        let mut rest = &*bytes;
        let Some(reframe) = self.reframe.as_mut() else {
            let result = self.relay(&mut rest);
            let (length, left) = (bytes.len(), rest.len());
            let bytes = bytes.get_mut(..length - left).unwrap_or_default();
            self.dress(bytes);
            return (result, bytes, left > 0);
        };
        let is_untouched = self.reply.is_untouched();
        translated.clear();
        let heard = reframe.pass(&mut self.reply, &mut rest, translated);
        let is_more = !rest.is_empty();
        self.dress(translated);
        (self.heard(heard, is_untouched), translated, is_more)
    }

    fn heard(
        &mut self,
        heard: Result<Option<Outcome>, Error>,
        is_untouched: bool,
    ) -> Result<Option<Outcome>, Failure> {
        match heard {
            Ok(None) => Ok(None),
            Ok(Some(outcome)) => {
                self.phase = Phase::Ready;
                self.status = outcome.status.unwrap_or(self.status);
                self.diagnostics |= outcome.warnings > 0 || outcome.error.is_some();
                self.make_room(outcome.error.unwrap_or(0));
                Ok(Some(outcome))
            }
            Err(error) => {
                self.refuse_reply(is_untouched);
                Err(Failure::Broken(error.to_string()))
            }
        }
    }
}
