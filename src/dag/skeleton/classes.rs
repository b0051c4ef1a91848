//! Namespaces and kinds as small numbers, and the tips of each namespace.
//!
//! Promises: two bytes a vertex hold both words; a class once given never changes; a reader takes no lock.
//! Does not: hold more than [`CLASSES_MAX`] pairs of namespace and kind. A vertex of a later pair is class [`OTHER`]: it is
//! walked like any, but no longer knows its words, and from then on a filter by them is refused rather than answered wrongly.

use super::published::Published;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Pairs of namespace and kind that a skeleton tells apart.
pub const CLASSES_MAX: usize = 65_535;
/// The class of a vertex whose pair came after the last one that fits.
pub(super) const OTHER: u16 = u16::MAX;
/// Classes of one block of the list.
const BLOCK_CLASSES: usize = 256;
/// Places of a new list of tips.
const TIPS_MIN: usize = 64;

const _: () = assert!(CLASSES_MAX <= OTHER as usize);

/// A namespace that has a vertex.
pub(super) struct Namespace {
    pub(super) name: Box<str>,
    /// The first class of it: through this one, each namespace is met once among the classes.
    pub(super) class_first: u16,
    /// Candidates for the namespace's tips.
    pub(super) tips: Published<TipList>,
}

/// A pair of namespace and kind that has a vertex.
pub(super) struct Class {
    pub(super) namespace: Arc<Namespace>,
    pub(super) kind: Box<str>,
}

/// Numbers in ascending order, among them every tip of the namespace at the time of the list's last entry, and dead ones.
pub(super) struct TipList {
    places: Box<[AtomicU32]>,
    used: AtomicUsize,
}

impl TipList {
    fn new(places: usize) -> Self {
        Self { places: (0..places).map(|_| AtomicU32::new(0)).collect(), used: AtomicUsize::new(0) }
    }

    pub(super) fn candidates(&self) -> impl Iterator<Item = u32> + '_ {
        self.places[..self.used.load(Ordering::Acquire)].iter().map(|place| place.load(Ordering::Relaxed))
    }

    fn push(&self, number: u32) {
        let used = self.used.load(Ordering::Relaxed);
        self.places[used].store(number, Ordering::Relaxed);
        self.used.store(used + 1, Ordering::Release);
    }

    fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) == self.places.len()
    }
}

/// Classes side by side, made together.
type Block = Box<[OnceLock<Class>]>;

/// The classes as readers see them.
pub(super) struct Classes {
    blocks: Box<[OnceLock<Block>]>,
    count: AtomicUsize,
    /// Vertices of class [`OTHER`].
    overflow: AtomicU32,
    tip_places: AtomicUsize,
}

impl Classes {
    pub(super) fn new() -> Self {
        Self {
            blocks: (0..CLASSES_MAX.div_ceil(BLOCK_CLASSES)).map(|_| OnceLock::new()).collect(),
            count: AtomicUsize::new(0),
            overflow: AtomicU32::new(0),
            tip_places: AtomicUsize::new(0),
        }
    }

    /// The class with this number; `None` for [`OTHER`].
    pub(super) fn get(&self, class: u16) -> Option<&Class> {
        self.blocks.get(usize::from(class) / BLOCK_CLASSES)?.get()?.get(usize::from(class) % BLOCK_CLASSES)?.get()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &Class)> {
        let count = self.count.load(Ordering::Acquire);
        (0..count as u16).filter_map(|class| Some((class, self.get(class)?)))
    }

    /// Whether vertices exist whose words were not kept.
    pub(super) fn overflowed(&self) -> bool {
        0 < self.overflow.load(Ordering::Acquire)
    }

    /// Memory of the lists of tips, in bytes (the words themselves are few).
    pub(super) fn bytes(&self) -> usize {
        self.tip_places.load(Ordering::Relaxed) * size_of::<AtomicU32>()
            + self.blocks.iter().filter(|block| block.get().is_some()).count()
                * BLOCK_CLASSES
                * size_of::<OnceLock<Class>>()
    }
}

/// A namespace, and the class of each of its kinds.
type Known = (Arc<Namespace>, HashMap<Box<str>, u16>);

/// The writer's side.
#[derive(Default)]
pub(super) struct ClassWriter {
    namespaces: HashMap<Box<str>, Known>,
    count: usize,
}

impl ClassWriter {
    /// The class of a pair, new when it was not met before and there is room.
    pub(super) fn class(&mut self, classes: &Classes, namespace: &str, kind: &str) -> u16 {
        if let Some((_, kinds)) = self.namespaces.get(namespace)
            && let Some(&class) = kinds.get(kind)
        {
            return class;
        }
        if self.count == CLASSES_MAX {
            classes.overflow.fetch_add(1, Ordering::Release);
            return OTHER;
        }
        let class = self.count as u16;
        let (shared, kinds) = self.namespaces.entry(namespace.into()).or_insert_with(|| {
            classes.tip_places.fetch_add(TIPS_MIN, Ordering::Relaxed);
            let tips = Published::new(TipList::new(TIPS_MIN));
            (Arc::new(Namespace { name: namespace.into(), class_first: class, tips }), HashMap::new())
        });
        kinds.insert(kind.into(), class);
        let block = classes.blocks[self.count / BLOCK_CLASSES]
            .get_or_init(|| (0..BLOCK_CLASSES).map(|_| OnceLock::new()).collect());
        let fresh = block[self.count % BLOCK_CLASSES].set(Class { namespace: Arc::clone(shared), kind: kind.into() });
        assert!(fresh.is_ok(), "a class is given once");
        self.count += 1;
        classes.count.store(self.count, Ordering::Release);
        class
    }
}

/// Makes room for one more tip of the namespace. Called before the next vertex is linked to its parents, so that what is left
/// out here has a child which every later snapshot sees.
pub(super) fn reserve_tip(classes: &Classes, namespace: &Namespace, is_tip: impl Fn(u32) -> bool) {
    let list = namespace.tips.load();
    if !list.is_full() {
        return;
    }
    let alive: Vec<u32> = list.candidates().filter(|&number| is_tip(number)).collect();
    // Half of the new list is free, so copying costs a constant a vertex.
    let fresh = TipList::new((alive.len() * 2).max(TIPS_MIN));
    for &number in &alive {
        fresh.push(number);
    }
    classes.tip_places.fetch_add(fresh.places.len(), Ordering::Relaxed);
    classes.tip_places.fetch_sub(list.places.len(), Ordering::Relaxed);
    namespace.tips.replace(Arc::new(fresh));
}

/// Notes a new vertex, which has no child yet. [`reserve_tip`] made room.
pub(super) fn push_tip(namespace: &Namespace, number: u32) {
    namespace.tips.with(|list| list.push(number));
}
