//! Who of a put goes on to its shard: whose parents are here, and for whom there is memory to wait for parents that are not.
//!
//! Promises: with parents demanded, nobody goes on behind a record of the same request that does not; whoever may have to wait
//! has its memory reserved before it is proposed, so what is committed need never be turned away; linear in the parents.
//! Does not: wait for a vertex that is on its way unless the memory is nearly full; take a record back that its shard refuses
//! afterwards: those behind it then wait for it like any whose parents are not here, in the same memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{PutOptions, Router, Shared};
use crate::dag::archive::SealedVertex;
use crate::dag::skeleton::staged_bytes;
use crate::error::{Reason, Refusal};
use crate::ids::VertexId;
use crate::limits::GET_BATCH_MAX;

/// What became of a request's records: for each, why it does not go on.
pub(super) type Refused = Vec<Option<Refusal>>;

/// Memory for records that may have to wait for their parents, until the skeleton has seen them; then it counts them itself.
pub(super) struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.staging_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Router {
    /// Decides about every record, and reserves what those that go on may need.
    pub(super) async fn admit(&self, records: &[SealedVertex], options: PutOptions) -> (Refused, Option<Reservation>) {
        let here = |id: &VertexId| self.skeleton().view().contains(id);
        if records.iter().all(|record| record.parents().all(|parent| here(&parent))) {
            return (vec![None; records.len()], None);
        }
        let places = places(records);
        let mut refused = vec![None; records.len()];
        if !options.allow_missing_parents {
            let missing = self.missing(strangers(records, &places, here)).await;
            refuse_orphans(records, &places, &missing, &mut refused);
        }
        let wanted = memory(records, &places, &refused, here).iter().sum();
        if let Some(reservation) = self.reserve(wanted) {
            return (refused, (0 < wanted).then_some(reservation));
        }
        // A parent that the skeleton has not seen yet may only be on its way to it. After this it is seen, or it waits itself.
        self.progress().caught_up(None).await;
        let mut reservations: Option<Reservation> = None;
        for (at, bytes) in
            memory(records, &places, &refused, here).into_iter().enumerate().filter(|(_, bytes)| 0 < *bytes)
        {
            match (self.reserve(bytes), &mut reservations) {
                (Some(mut more), Some(all)) => all.bytes += std::mem::take(&mut more.bytes),
                (Some(first), none) => *none = Some(first),
                (None, _) => refused[at] = Some(self.no_memory()),
            }
        }
        if !options.allow_missing_parents {
            refuse_orphans(records, &places, &HashMap::new(), &mut refused);
        }
        (refused, reservations)
    }

    fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let shared = &self.0.shared;
        let room = shared.staged_bytes_max.saturating_sub(shared.skeleton.counts().staged_bytes);
        let more = |reserved: u64| (reserved + bytes <= room).then_some(reserved + bytes);
        let reserved = shared.staging_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        (bytes == 0 || reserved.is_ok()).then(|| Reservation { shared: shared.clone(), bytes })
    }

    fn no_memory(&self) -> Refusal {
        let shared = &self.0.shared;
        let taken = shared.skeleton.counts().staged_bytes + shared.staging_bytes.load(Ordering::Relaxed);
        let limit = Refusal::limit(
            "memory of vertices that wait for parents (storage.staged_mib_max)",
            taken as usize,
            shared.staged_bytes_max as usize,
            "bytes",
        );
        Refusal { detail: format!("{}; put the parents that are waited for first", limit.detail), ..limit }
    }

    /// Which of these are nowhere, with what to tell those that name them as parents.
    async fn missing(&self, mut ids: Vec<VertexId>) -> HashMap<VertexId, Refusal> {
        ids.sort_unstable();
        ids.dedup();
        let mut missing = HashMap::new();
        for chunk in ids.chunks(GET_BATCH_MAX) {
            match self.has(chunk).await {
                Ok(found) => missing.extend(chunk.iter().zip(found).filter(|(_, found)| !found).map(|(&id, _)| {
                    let detail = format!("parent {id} is not here; put it first, or allow missing parents");
                    (id, Refusal::new(Reason::MissingParents, detail))
                })),
                Err(refusal) => missing.extend(chunk.iter().map(|&id| (id, refusal.clone()))),
            }
        }
        missing
    }
}

/// Where each vertex of the request stands first.
fn places(records: &[SealedVertex]) -> HashMap<VertexId, usize> {
    let mut places = HashMap::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        places.entry(record.id()).or_insert(at);
    }
    places
}

/// The place of a parent that stands before its child.
fn earlier(places: &HashMap<VertexId, usize>, parent: &VertexId, child: usize) -> Option<usize> {
    places.get(parent).copied().filter(|&place| place < child)
}

/// Parents that are neither here nor earlier in the request.
fn strangers(
    records: &[SealedVertex],
    places: &HashMap<VertexId, usize>,
    here: impl Fn(&VertexId) -> bool,
) -> Vec<VertexId> {
    let parents = records.iter().enumerate().flat_map(|(at, record)| record.parents().map(move |parent| (at, parent)));
    parents.filter(|(at, id)| !here(id) && earlier(places, id, *at).is_none()).map(|(_, id)| id).collect()
}

/// Refuses whoever has a parent that is missing, or that stands earlier in the request and was refused.
fn refuse_orphans(
    records: &[SealedVertex],
    places: &HashMap<VertexId, usize>,
    missing: &HashMap<VertexId, Refusal>,
    refused: &mut Refused,
) {
    for (at, record) in records.iter().enumerate() {
        if refused[at].is_some() {
            continue;
        }
        refused[at] = record.parents().find_map(|parent| match earlier(places, &parent, at) {
            Some(place) => refused[place].as_ref().map(|behind| Refusal {
                detail: format!("parent {parent} stands earlier in this request and was refused"),
                ..behind.clone()
            }),
            None => missing.get(&parent).cloned(),
        });
    }
}

/// What each record would take while it waits: nothing for one whose parents are here or come with it.
fn memory(
    records: &[SealedVertex],
    places: &HashMap<VertexId, usize>,
    refused: &Refused,
    here: impl Fn(&VertexId) -> bool,
) -> Vec<u64> {
    let mut waits = vec![false; records.len()];
    let mut bytes = vec![0; records.len()];
    for (at, record) in records.iter().enumerate() {
        waits[at] = refused[at].is_some()
            || record
                .parents()
                .any(|parent| !here(&parent) && earlier(places, &parent, at).is_none_or(|place| waits[place]));
        if waits[at] && refused[at].is_none() {
            let names = record.namespace().len() + record.kind().len();
            bytes[at] = staged_bytes(record.parents().len(), record.labels().len(), names);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
    use super::*;
    use crate::dag::vertex::Vertex;

    fn vertex(time: u64, parents: &[VertexId]) -> SealedVertex {
        let vertex = Vertex {
            namespace: "default".to_owned(),
            kind: "note".to_owned(),
            author: None,
            timestamp_ms: time,
            parents: parents.to_vec(),
            labels: std::collections::BTreeMap::new(),
            payload: Vec::new(),
        };
        SealedVertex::seal(&vertex, None).unwrap()
    }

    /// Places of those that are refused, and of those that would take memory, when only `here` is here and `gone` is nowhere.
    fn decide(records: &[SealedVertex], here: &[VertexId], gone: &[VertexId]) -> (Vec<usize>, Vec<usize>) {
        let (places, is_here) = (places(records), |id: &VertexId| here.contains(id));
        let missing =
            gone.iter().map(|&id| (id, Refusal::new(Reason::MissingParents, "nowhere"))).collect::<HashMap<_, _>>();
        let mut refused = vec![None; records.len()];
        refuse_orphans(records, &places, &missing, &mut refused);
        let bytes = memory(records, &places, &refused, is_here);
        let at = |wanted: &dyn Fn(usize) -> bool| (0..records.len()).filter(|&at| wanted(at)).collect();
        (at(&|at| refused[at].is_some()), at(&|at| 0 < bytes[at]))
    }

    #[test]
    fn s2_2_7_nobody_goes_on_behind_a_refused_one() {
        let (known, nowhere) = (vertex(1, &[]).id(), vertex(2, &[]).id());
        let root = vertex(3, &[]);
        let orphan = vertex(4, &[nowhere]);
        let behind = vertex(5, &[orphan.id()]);
        let further = vertex(6, &[known, behind.id()]);
        let fine = vertex(7, &[known, root.id()]);
        let records = [root.clone(), orphan.clone(), behind.clone(), further.clone(), fine.clone()];
        assert_eq!(decide(&records, &[known], &[nowhere]), (vec![1, 2, 3], vec![]));
        assert_eq!(strangers(&records, &places(&records), |id| *id == known), [nowhere]);
        // Allowed to wait, they take memory, and so do those behind them.
        assert_eq!(decide(&records, &[known], &[]), (vec![], vec![1, 2, 3]));
        // A parent that stands behind its child is no parent that came before.
        let turned = [behind.clone(), orphan.clone()];
        assert_eq!(decide(&turned, &[], &[nowhere, orphan.id()]), (vec![0, 1], vec![]));
        // Twice the same vertex is as once.
        let twice = [orphan.clone(), orphan, behind];
        assert_eq!(decide(&twice, &[], &[nowhere]), (vec![0, 1, 2], vec![]));
    }

    #[test]
    fn s2_2_7_a_request_of_one_long_chain_is_decided_in_a_step_a_parent() {
        let mut records = vec![vertex(1, &[VertexId([7; 32])])];
        for time in 2..=4096 {
            records.push(vertex(time, &[records[records.len() - 1].id()]));
        }
        let (refused, waiting) = decide(&records, &[], &[VertexId([7; 32])]);
        assert_eq!((refused.len(), waiting.len()), (4096, 0));
        let (places, mut refused) = (places(&records), vec![None; records.len()]);
        let missing = HashMap::from([(VertexId([7; 32]), Refusal::new(Reason::MissingParents, "nowhere"))]);
        refuse_orphans(&records, &places, &missing, &mut refused);
        let longest = refused.iter().flatten().map(|refusal| refusal.detail.len()).max();
        assert!(longest < Some(200), "a refusal tells of its own parent only: {longest:?}");
    }
}
