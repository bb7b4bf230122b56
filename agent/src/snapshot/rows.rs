//! The rows of one table with their index, which holds row numbers only.
//!
//! Names are what is unique at any one time: a type has one object of a name. A uid tells one incarnation of the name from
//! the next, but of it nobody can be sure that no other object has it: an aggregated API, or an etcd that was put together
//! from a backup, may well give one uid to several objects.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use super::codec::{Codec, Packed};
use super::types::{Object, Removed, Told};
use crate::object::{ObjectName, ResourceVersion, Uid};

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) uid: Uid,
    pub(super) name: ObjectName,
    pub(super) resource_version: ResourceVersion,
    pub(super) hash: u64,
    /// None for an object that was read back from the stream, and, where bodies are not kept, once consumers have it.
    pub(super) body: Option<Packed>,
    pub(super) told: Told,
    /// Hash of the state that was last confirmed; means nothing before one was.
    pub(super) confirmed_hash: u64,
    /// Sequence of that state in the stream; 0 where there is no stream or no message.
    pub(super) sequence: u64,
    /// Number of the last re-list that saw the object.
    pub(super) seen: u32,
}

impl Row {
    /// Whether consumers have been told of just this state.
    pub(super) fn is_confirmed(&self) -> bool {
        self.told == Told::Yes && self.confirmed_hash == self.hash
    }
}

impl From<Row> for Removed {
    fn from(row: Row) -> Self {
        let Row { uid, name, resource_version, told, sequence, hash: _, confirmed_hash: _, body: _, seen: _ } = row;
        Self { uid, name, resource_version, told, sequence }
    }
}

/// A copy of a row, its body unpacked.
pub(super) fn unpack(row: Row, codec: &Codec) -> Object {
    let confirmed = row.is_confirmed();
    let Row { uid, name, resource_version, hash, told, sequence, body, confirmed_hash: _, seen: _ } = row;
    let body = body.and_then(|packed| codec.unpack(&packed));
    Object { uid, name, resource_version, hash, told, confirmed, sequence, body }
}

/// Slots in a block.
const BLOCK: usize = 128;

/// Slots that are used again. They stand in blocks: a vector of them all would be copied, and held twice, whenever it grows,
/// and be half empty after that.
#[derive(Default)]
struct Slots {
    blocks: Vec<Vec<Option<Row>>>,
}

impl Slots {
    fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len())
    }

    fn get(&self, slot: usize) -> Option<&Row> {
        self.blocks.get(slot / BLOCK)?.get(slot % BLOCK)?.as_ref()
    }

    fn get_mut(&mut self, slot: usize) -> Option<&mut Option<Row>> {
        self.blocks.get_mut(slot / BLOCK)?.get_mut(slot % BLOCK)
    }

    /// Adds an empty slot; gives its number.
    fn push(&mut self) -> usize {
        match self.blocks.last_mut() {
            Some(last) if last.len() < BLOCK => last.push(None),
            _ => {
                // Most tables are small: the first block grows as needed, the others are as large as they will be.
                let size = if self.blocks.is_empty() { 1 } else { BLOCK };
                let mut block = Vec::with_capacity(size);
                block.push(None);
                self.blocks.push(block);
            }
        }
        self.len() - 1
    }

    fn iter(&self) -> impl Iterator<Item = &Row> {
        self.blocks.iter().flatten().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.blocks.iter_mut().flatten().flatten()
    }
}

/// Rows in slots, found by name.
#[derive(Default)]
pub(super) struct Rows {
    slots: Slots,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    hasher: RandomState,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Number of slots, used or not: the end of what [`Self::slot`] can give.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn slot(&self, slot: usize) -> Option<&Row> {
        self.slots.get(slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.slots.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.slots.iter_mut()
    }

    /// The incarnation of `name` that has this uid.
    pub(super) fn find(&self, name: &ObjectName, uid: &Uid) -> Option<&Row> {
        self.find_named(name).filter(|row| row.uid == *uid)
    }

    /// As [`Self::find`].
    pub(super) fn find_mut(&mut self, name: &ObjectName, uid: &Uid) -> Option<&mut Row> {
        let Self { slots, by_name, hasher, .. } = self;
        let slot = *by_name.find(hasher.hash_one(name), |&slot| is_row(slots, slot, |row| row.name == *name))?;
        slots.get_mut(slot as usize)?.as_mut().filter(|row| row.uid == *uid)
    }

    /// The row of `name`, whichever incarnation it is.
    pub(super) fn find_named(&self, name: &ObjectName) -> Option<&Row> {
        let hash = self.hasher.hash_one(name);
        let slot = self.by_name.find(hash, |&slot| is_row(&self.slots, slot, |row| row.name == *name));
        self.slot(*slot? as usize)
    }

    /// Adds a row. Its name may not be there already.
    pub(super) fn insert(&mut self, row: Row) {
        let Self { slots, free, by_name, hasher } = self;
        let name_hash = hasher.hash_one(&row.name);
        let slot = match free.pop() {
            Some(slot) => slot,
            // Four billion objects of a type do not fit into any etcd.
            None => u32::try_from(slots.push()).unwrap_or(u32::MAX),
        };
        if let Some(place) = slots.get_mut(slot as usize) {
            *place = Some(row);
        }
        by_name.insert_unique(name_hash, slot, |&other| hash_of(slots, other, |row| hasher.hash_one(&row.name)));
    }

    /// Removes the row of `name`, whichever incarnation it is.
    pub(super) fn remove_named(&mut self, name: &ObjectName) -> Option<Row> {
        let Self { slots, free, by_name, hasher } = self;
        let in_names =
            by_name.find_entry(hasher.hash_one(name), |&slot| is_row(slots, slot, |row| row.name == *name)).ok()?;
        let (slot, _) = in_names.remove();
        let row = slots.get_mut(slot as usize)?.take()?;
        free.push(slot);
        Some(row)
    }

    /// Removes all rows for which `keep` is false and gives them back.
    pub(super) fn remove_unless(&mut self, keep: impl Fn(&Row) -> bool) -> Vec<Row> {
        let gone: Vec<ObjectName> = self.iter().filter(|row| !keep(row)).map(|row| row.name.clone()).collect();
        gone.iter().filter_map(|name| self.remove_named(name)).collect()
    }
}

fn is_row(slots: &Slots, slot: u32, matches: impl Fn(&Row) -> bool) -> bool {
    slots.get(slot as usize).is_some_and(matches)
}

fn hash_of(slots: &Slots, slot: u32, hash: impl Fn(&Row) -> u64) -> u64 {
    slots.get(slot as usize).map_or(0, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred thousand rows are 11 MB. Who adds a field sees it here.
    #[test]
    fn a_row_is_small() {
        assert_eq!(size_of::<Option<Row>>(), 112);
    }
}
