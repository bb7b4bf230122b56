//! Walking over a table without stopping its writer.

use std::sync::Arc;
use std::vec;

use super::codec::Codec;
use super::rows::{Row, unpack};
use super::table::Table;
use super::types::Object;

/// Rows copied under one lock: some tens of KB, compressed.
const BATCH: usize = 64;

impl Table {
    /// Walks over copies of all objects, taking the lock only now and then. An object that is there during the whole walk
    /// is given exactly once; others at most once.
    #[must_use]
    pub fn scan(self: &Arc<Self>) -> Scan {
        Scan::new(Arc::clone(self))
    }
}

/// See [`Table::scan`]; one body at a time is unpacked.
pub struct Scan {
    table: Arc<Table>,
    batch: vec::IntoIter<Row>,
    codec: Arc<Codec>,
    /// Slot to go on from; `None` at the end.
    next: Option<usize>,
}

impl Scan {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self { table, batch: Vec::new().into_iter(), codec: Arc::default(), next: Some(0) }
    }
}

impl Iterator for Scan {
    type Item = Object;

    fn next(&mut self) -> Option<Object> {
        loop {
            if let Some(row) = self.batch.next() {
                return Some(unpack(row, &self.codec));
            }
            let (rows, next, codec) = self.table.copy_rows(self.next?, BATCH);
            self.batch = rows.into_iter();
            self.next = next;
            self.codec = codec;
        }
    }
}
