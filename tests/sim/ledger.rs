//! What was promised, what was applied, and what contradicted it.
//!
//! Promises: two replicas that apply different records at one index are noticed when the second one does. Does not: ask a node.

use std::collections::{BTreeMap, BTreeSet};

use qmesh::dag::archive::SealedVertex;
use qmesh::dag::ref_record::RefRecord;
use qmesh::dag::refs::RefName;
use qmesh::feed::Item;
use qmesh::ids::{ShardId, Token, VertexId};
use tokio::time::Instant;

use super::checks::RefHistory;

/// Violations that are told of one seed.
const VIOLATIONS_MAX: usize = 20;

/// What one entry did: the vertices that it holds, and the moves of refs that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) vertices: Vec<VertexId>,
    pub(crate) moves: Vec<RefRecord>,
}

/// Shard and index.
pub(crate) type Place = (ShardId, u64);

#[derive(Default)]
pub(crate) struct Ledger {
    /// What the first replica applied at each place.
    pub(crate) agreed: BTreeMap<Place, Applied>,
    /// What each node applied or recovered in its present life: the vertices of each entry.
    pub(crate) held: BTreeMap<usize, BTreeMap<Place, Vec<VertexId>>>,
    pub(crate) acknowledged: BTreeMap<VertexId, SealedVertex>,
    pub(crate) refs: BTreeMap<RefName, RefHistory>,
    /// When each move of a ref was acknowledged, and the version that it made.
    pub(crate) acknowledged_moves: BTreeMap<RefName, Vec<(Instant, u64)>>,
    /// Refs that a client asked to delete.
    pub(crate) deleted: BTreeSet<RefName>,
    pub(crate) old_reads: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) faults: u64,
    pub(crate) moves: u64,
    pub(crate) reads: u64,
    pub(crate) unknown: u64,
    hash: u64,
}

impl Ledger {
    pub(crate) fn violation(&mut self, what: String) {
        self.note(what.as_bytes());
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// Takes part in the hash of the whole run.
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// A node begins a life: it knows what it will recover and nothing else.
    pub(crate) fn born(&mut self, node: usize) {
        self.held.insert(node, BTreeMap::new());
    }

    /// A node found a record at open.
    pub(crate) fn recovered(&mut self, node: usize, token: Token, vertex: Option<VertexId>) {
        let place = (token.shard, token.index.0);
        let vertices = self.held.entry(node).or_default().entry(place).or_default();
        vertices.extend(vertex);
    }

    /// A node is open: what it recovered is part of what was agreed. It may be the first to tell, when the others were cut off.
    pub(crate) fn opened(&mut self, node: usize) {
        let held = self.held.get(&node).cloned().unwrap_or_default();
        for (place, vertices) in held {
            if let Some(agreed) = self.agreed.get(&place)
                && agreed.vertices != vertices
            {
                let agreed = agreed.vertices.clone();
                self.violation(format!("node {node} recovered {vertices:?} at {place:?}, agreed were {agreed:?}"));
            }
        }
    }

    /// A node applied an entry.
    pub(crate) fn applied(&mut self, node: usize, token: Token, applied: Applied) {
        let place = (token.shard, token.index.0);
        self.note(format!("{node} {place:?} {:?} {}", applied.vertices, applied.moves.len()).as_bytes());
        let held = self.held.entry(node).or_default();
        if held.insert(place, applied.vertices.clone()).is_some() {
            self.violation(format!("node {node} applied {place:?} twice"));
        }
        match self.agreed.get(&place) {
            Some(agreed) if *agreed != applied => {
                let agreed = agreed.clone();
                self.violation(format!("node {node} applied {applied:?} at {place:?}, agreed were {agreed:?}"));
            }
            Some(_) => {}
            None => drop(self.agreed.insert(place, applied)),
        }
    }
}

/// Reads a node's feed into entries.
#[derive(Default)]
pub(crate) struct Tap(Applied);

impl Tap {
    /// The entry that this item ends, if it does.
    pub(crate) fn take(&mut self, item: &Item) -> Option<(Token, Applied)> {
        match item {
            Item::Vertex(_, vertex) => self.0.vertices.push(vertex.id()),
            Item::Ref(record) => self.0.moves.push(RefRecord::clone(record)),
            Item::Entry(token) => return Some((*token, std::mem::take(&mut self.0))),
        }
        None
    }
}
