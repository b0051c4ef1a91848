//! Places boxes in layers: children above their parents, few crossings.
//!
//! The layer of a box is one more than the deepest of its children's; inside a layer boxes are ordered by the middle of their
//! neighbours (Sugiyama's barycentre heuristic), some sweeps down and up.
//! Promises: every edge goes down at least one layer; no two boxes share a place. Does not: measure text.

use super::Piece;

/// Sweeps over the layers; more change little.
const SWEEPS: usize = 8;

/// The place of a box: its layer from the top, its column from the left in halves of a box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) half_column: usize,
}

/// The places of all boxes of `piece`.
pub(super) fn place(piece: &Piece) -> Vec<Place> {
    let count = piece.boxes.len();
    let (mut parents, mut children) = (vec![Vec::new(); count], vec![Vec::new(); count]);
    for &(child, parent) in &piece.edges {
        parents[child].push(parent);
        children[parent].push(child);
    }
    let layer_of = layers(&parents, &children);
    let layer_count = layer_of.iter().max().map_or(0, |last| last + 1);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); layer_count];
    for (at, &layer) in layer_of.iter().enumerate() {
        layers[layer].push(at);
    }
    let mut position: Vec<usize> = vec![0; count];
    layers.iter().for_each(|layer| number(layer, &mut position));
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let neighbours = if down { &children } else { &parents };
        for nth in 0..layer_count {
            let layer = &mut layers[if down { nth } else { layer_count - 1 - nth }];
            let middle = |at: usize| {
                let of = &neighbours[at];
                // Alone, a box stays where it is. Thousandths keep the order exact without floating point.
                if of.is_empty() {
                    return position[at] * 1000;
                }
                of.iter().map(|&other| position[other] * 1000).sum::<usize>() / of.len()
            };
            let mut keyed: Vec<(usize, usize)> = layer.iter().map(|&at| (middle(at), at)).collect();
            keyed.sort_by_key(|&(middle, at)| (middle, position[at]));
            *layer = keyed.into_iter().map(|(_, at)| at).collect();
            number(layer, &mut position);
        }
    }
    let widest = layers.iter().map(Vec::len).max().unwrap_or(0);
    let mut places = vec![Place::default(); count];
    for (layer, boxes) in layers.iter().enumerate() {
        for (nth, &at) in boxes.iter().enumerate() {
            places[at] = Place { layer, half_column: widest - boxes.len() + nth * 2 };
        }
    }
    places
}

fn number(layer: &[usize], position: &mut [usize]) {
    layer.iter().enumerate().for_each(|(nth, &at)| position[at] = nth);
}

/// One more than the deepest child's layer, from the boxes without children on.
fn layers(parents: &[Vec<usize>], children: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = children.iter().map(Vec::len).collect();
    let mut ready: Vec<usize> = (0..parents.len()).filter(|&at| waiting[at] == 0).collect();
    let mut layers = vec![0; parents.len()];
    while let Some(at) = ready.pop() {
        for &parent in &parents[at] {
            layers[parent] = layers[parent].max(layers[at] + 1);
            waiting[parent] -= 1;
            if waiting[parent] == 0 {
                ready.push(parent);
            }
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::Box;
    use super::*;

    fn piece(count: usize, edges: &[(usize, usize)]) -> Piece {
        let one = |at: usize| Box { name: at.to_string(), title: String::new(), detail: String::new(), goes_on: false };
        Piece { boxes: (0..count).map(one).collect(), edges: edges.to_vec() }
    }

    fn check(count: usize, edges: &[(usize, usize)]) -> Vec<Place> {
        let places = place(&piece(count, edges));
        for &(child, parent) in edges {
            assert!(places[child].layer < places[parent].layer, "{child} above {parent}");
        }
        let taken: HashSet<_> = places.iter().map(|place| (place.layer, place.half_column / 2)).collect();
        assert_eq!(taken.len(), count, "{places:?}");
        places
    }

    #[test]
    fn s1_1_8_layers_put_children_above_parents() {
        check(0, &[]);
        check(1, &[]);
        check(3, &[]);
        check(2, &[(0, 1), (0, 1)]);
        let diamond = check(4, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
        assert_eq!(diamond.iter().map(|place| place.layer).collect::<Vec<_>>(), [0, 1, 1, 2]);
        // A shortcut past a layer.
        check(3, &[(0, 1), (1, 2), (0, 2)]);
        let chain: Vec<_> = (0..499).map(|at| (at, at + 1)).collect();
        assert_eq!(check(500, &chain)[499].layer, 499);
        let octopus: Vec<_> = (1..=8).map(|parent| (0, parent)).collect();
        assert_eq!(check(9, &octopus)[0].half_column, 7);
    }

    #[test]
    fn s1_1_8_crossings_are_undone() {
        // Two children drawn left and right whose parents stand right and left.
        let places = check(4, &[(0, 3), (1, 2)]);
        assert_eq!(places[0].half_column < places[1].half_column, places[3].half_column < places[2].half_column);
    }
}
