//! What follows a command's first packet: the rest of a long one, or a file that the server asked for.
//!
//! Both are passed on in pieces, as they come; only packet headers are looked at.

use portside_proto::command::{HEADER_LEN, MAX_PAYLOAD};

use super::{length, Phase, Session, Step};

impl Session {
    pub(super) fn upload(&mut self, input: &[u8], left: usize, continues: bool) -> (usize, Step) {
        if left > 0 {
            let taken = left.min(input.len());
            self.phase = Phase::Upload {
                left: left - taken,
                continues,
            };
            let step = if taken > 0 { Step::Forward } else { Step::More };
            return (taken, step);
        }
        if !continues {
            // Long data has no reply.
            let (phase, step) = match self.verdict {
                Some(_) => (Phase::Reply, Step::Await),
                None => (Phase::Command, Step::Say(Vec::new())),
            };
            self.phase = phase;
            return (0, step);
        }
        if input.len() < HEADER_LEN {
            return (0, Step::More);
        }
        let length = length(input);
        let taken = input.len().min(HEADER_LEN + length);
        self.phase = Phase::Upload {
            left: HEADER_LEN + length - taken,
            continues: length == MAX_PAYLOAD as usize,
        };
        (taken, Step::Forward)
    }

    /// The server asks for a file. True: the command at hand names it; the client's packets go to the server until the
    /// file is over.
    pub fn may_send(&mut self, name: &[u8]) -> bool {
        let files = self.verdict.as_ref().map_or(&[][..], |v| &v.files);
        let is_named = |file: &Option<Box<[u8]>>| file.as_deref().is_none_or(|file| file == name);
        let is_asked = self.phase == Phase::Reply && files.iter().any(is_named);
        if is_asked {
            self.phase = Phase::File {
                left: 0,
                continues: false,
            };
        }
        is_asked
    }

    pub(super) fn file(&mut self, input: &[u8], left: usize, continues: bool) -> (usize, Step) {
        let (taken, left, continues) = if left > 0 {
            let taken = left.min(input.len());
            (taken, left - taken, continues)
        } else if input.len() < HEADER_LEN {
            (0, 0, continues)
        } else {
            let length = length(input);
            if length == 0 && !continues {
                self.phase = Phase::Reply;
                return (HEADER_LEN, Step::Forward);
            }
            let taken = input.len().min(HEADER_LEN + length);
            let left = HEADER_LEN + length - taken;
            (taken, left, length == MAX_PAYLOAD as usize)
        };
        self.phase = Phase::File { left, continues };
        let step = if taken > 0 { Step::Forward } else { Step::More };
        (taken, step)
    }
}
