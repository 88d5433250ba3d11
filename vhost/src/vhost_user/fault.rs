//! Why a connection is reset.

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A message that is malformed, out of order, or asks for what can't be.
    Message,
    /// A region that can't be mapped, or was shrunk.
    Memory,
    /// A descriptor that names memory outside the regions, has no length or the wrong direction.
    Descriptor,
    /// A chain that is circular, too long, shorter than its header, or indirect within indirect.
    Chain,
    /// A ring's index that jumped, or an entry beyond the ring.
    Index,
}

impl Fault {
    /// The name, as counters have it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Message => "bad_message",
            Fault::Memory => "bad_memory",
            Fault::Descriptor => "bad_descriptor",
            Fault::Chain => "bad_chain",
            Fault::Index => "bad_index",
        }
    }
}
