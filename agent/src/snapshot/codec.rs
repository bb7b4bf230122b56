//! Bodies at rest: one zstd frame each, against a dictionary of their own type once there is one.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, train_from_buffer};

use crate::object::{Body, Lengths};

/// Higher levels gain little on bodies of a few KB and cost several times the time.
const LEVEL: i32 = 1;

/// Size that a dictionary is trained to, in bytes.
const DICTIONARY_SIZE: usize = 16 * 1024;

/// Bodies longer than this take no part in training: one huge ConfigMap says nothing about the next.
const LONGEST_SAMPLE: usize = 16 * 1024;

thread_local! {
    // A context is some hundred KB: one per thread, not one per type.
    static COMPRESS: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESS: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// A compressed body. Only the codec that packed it can unpack it.
///
/// One allocation, and two words in a row: the length of the body comes first, as a `u32` in little endian, because frames
/// beyond a few MB are refused long before. Its highest bit is set where the rest is the body as it is, because compressing
/// gained nothing. Then come the lengths of the body's members, after a byte that says how much they take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed(Box<[u8]>);

/// Bytes of the length.
const HEAD: usize = 4;
/// Most bytes of the members' lengths.
const MOST_LENGTHS: usize = u8::MAX as usize;
/// Set in the length of a body that is kept as it is.
const PLAIN: u32 = 1 << 31;

impl Packed {
    /// Bytes held.
    #[must_use]
    pub fn packed_len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the body.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.head() & !PLAIN) as usize
    }

    /// Whether the body is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn new(head: u32, lengths: &Lengths, rest: &[u8]) -> Self {
        // An object of so many members is read the slow way.
        let lengths = Some(lengths.as_bytes()).filter(|lengths| lengths.len() <= MOST_LENGTHS).unwrap_or_default();
        Self([&head.to_le_bytes(), [lengths.len() as u8].as_slice(), lengths, rest].concat().into())
    }

    fn head(&self) -> u32 {
        self.0.first_chunk::<HEAD>().map_or(0, |head| u32::from_le_bytes(*head))
    }

    /// The lengths, and what follows them.
    fn rest(&self) -> Option<(Lengths, &[u8])> {
        let (length, rest) = self.0.get(HEAD..)?.split_first()?;
        let (lengths, rest) = rest.split_at_checked((*length).into())?;
        Some((Lengths::from_bytes(lengths), rest))
    }
}

/// How the bodies of one table are compressed.
#[derive(Default)]
pub struct Codec {
    dictionary: Option<Dictionary>,
}

struct Dictionary {
    compress: CDict<'static>,
    decompress: DDict<'static>,
    /// Tells two codecs apart in debug output.
    generation: u64,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").field("dictionary", &self.dictionary.as_ref().map(|own| own.generation)).finish()
    }
}

impl Codec {
    /// A codec with a dictionary trained on `samples`; `None` when they have too little in common for one.
    #[must_use]
    pub fn train<'a>(samples: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut all = Vec::new();
        let mut sizes = Vec::new();
        for sample in samples.into_iter().filter(|sample| sample.len() <= LONGEST_SAMPLE) {
            all.extend_from_slice(sample);
            sizes.push(sample.len());
        }
        let mut dictionary = Vec::with_capacity(DICTIONARY_SIZE);
        train_from_buffer(&mut dictionary, &all, &sizes).ok()?;
        Some(Self {
            dictionary: Some(Dictionary {
                compress: CDict::try_create(&dictionary, LEVEL)?,
                decompress: DDict::try_create(&dictionary)?,
                generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
            }),
        })
    }

    /// Whether a dictionary is in use.
    #[must_use]
    pub fn has_dictionary(&self) -> bool {
        self.dictionary.is_some()
    }

    /// Memory held by the dictionary, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.dictionary.as_ref().map_or(0, |own| own.compress.sizeof() + own.decompress.sizeof())
    }

    /// Compresses a body.
    #[must_use]
    pub fn pack(&self, body: &Body) -> Packed {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX) & !PLAIN;
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(body.len()));
        let written = COMPRESS.with_borrow_mut(|context| match &self.dictionary {
            Some(own) => context.compress_using_cdict(&mut out, body, &own.compress),
            None => context.compress(&mut out, body, LEVEL),
        });
        match written {
            Ok(_) if out.len() < body.len() => Packed::new(length, body.lengths(), &out),
            _ => Packed::new(length | PLAIN, body.lengths(), body),
        }
    }

    /// The body; `None` if `packed` is not of this codec.
    #[must_use]
    pub fn unpack(&self, packed: &Packed) -> Option<Body> {
        let (lengths, rest) = packed.rest()?;
        if packed.head() & PLAIN != 0 {
            return Some(Body::new(rest.to_vec(), lengths));
        }
        let mut body = Vec::with_capacity(packed.len());
        DECOMPRESS
            .with_borrow_mut(|context| match &self.dictionary {
                Some(own) => context.decompress_using_ddict(&mut body, rest, &own.decompress),
                None => context.decompress(&mut body, rest),
            })
            .ok()?;
        Some(Body::new(body, lengths))
    }
}
