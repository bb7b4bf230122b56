//! All tables.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use meshsync_crds::discovery::ServedType;

use super::table::Table;
use super::types::{Removed, TableStats};

/// Stands for one (group, version, plural, kind) as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

/// The tables of all watched types, to be shared in an `Arc`.
#[derive(Default)]
pub struct Store {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// Every type ever watched, at the place that its id says: deletes are published after a type was dropped.
    types: Vec<Arc<ServedType>>,
    ids: HashMap<TypeKey, TypeId>,
    tables: BTreeMap<TypeId, Arc<Table>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TypeKey {
    group: String,
    version: String,
    plural: String,
    kind: String,
}

impl State {
    fn intern(&mut self, served: &ServedType) -> TypeId {
        let ServedType { group, version, plural, kind, .. } = served.clone();
        *self.ids.entry(TypeKey { group, version, plural, kind }).or_insert_with(|| {
            self.types.push(Arc::new(served.clone()));
            // Types come from discovery documents of some hundred entries.
            TypeId(u32::try_from(self.types.len() - 1).unwrap_or(u32::MAX))
        })
    }
}

impl Store {
    /// A store without tables.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id and the table of a type, made if there is none.
    pub fn open(&self, served: &ServedType) -> (TypeId, Arc<Table>) {
        let mut state = self.write();
        let id = state.intern(served);
        let is_secrets = served.group.is_empty() && served.plural == "secrets";
        let table = || if is_secrets { Table::without_dictionary() } else { Table::new() };
        (id, Arc::clone(state.tables.entry(id).or_insert_with(table)))
    }

    /// The id of a type, whether or not it has a table.
    pub fn intern(&self, served: &ServedType) -> TypeId {
        self.write().intern(served)
    }

    /// What is known about a type, also after it was dropped.
    #[must_use]
    pub fn served_type(&self, id: TypeId) -> Option<Arc<ServedType>> {
        self.read().types.get(id.0 as usize).cloned()
    }

    /// The table of a type; `None` once it was dropped.
    #[must_use]
    pub fn table(&self, id: TypeId) -> Option<Arc<Table>> {
        self.read().tables.get(&id).cloned()
    }

    /// All types with a table.
    #[must_use]
    pub fn tables(&self) -> Vec<(TypeId, Arc<ServedType>, Arc<Table>)> {
        let state = self.read();
        let with_type = |(&id, table): (&TypeId, &Arc<Table>)| {
            state.types.get(id.0 as usize).map(|served| (id, Arc::clone(served), Arc::clone(table)))
        };
        state.tables.iter().filter_map(with_type).collect()
    }

    /// Forgets a type. Consumers must be told that each of its objects is gone.
    #[must_use = "each removed object must reach the outbox as a delete"]
    pub fn drop_type(&self, id: TypeId) -> Vec<Removed> {
        let table = self.write().tables.remove(&id);
        table.map(|table| table.close()).unwrap_or_default()
    }

    /// Size of all tables together.
    #[must_use]
    pub fn stats(&self) -> TableStats {
        self.tables().iter().map(|(_, _, table)| table.stats()).fold(TableStats::default(), |sum, one| TableStats {
            objects: sum.objects + one.objects,
            body_bytes: sum.body_bytes + one.body_bytes,
            packed_bytes: sum.packed_bytes + one.packed_bytes,
        })
    }
}
