//! The three forms of a drawing.
//!
//! Promises: whatever a vertex says, the text around it stays well-formed. Does not: lay out.

use std::fmt::Write;

use super::Piece;
use super::layout::Place;

/// Of a box in the SVG, in pixels.
const BOX_WIDTH: usize = 200;
const BOX_HEIGHT: usize = 44;
const GAP_ACROSS: usize = 28;
const GAP_DOWN: usize = 36;
const MARGIN: usize = 20;

/// For Graphviz.
pub(super) fn dot(piece: &Piece) -> String {
    let mut out = String::from(
        "digraph dag {\n  rankdir=TB;\n  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=10];\n",
    );
    for (at, one) in piece.boxes.iter().enumerate() {
        let (name, title, detail) = (quoted(&one.name), quoted(&one.title), quoted(&one.detail));
        let style = if one.goes_on { ", style=\"rounded,dashed\"" } else { "" };
        // Writing into a String does not fail.
        let _ = writeln!(out, "  v{at} [label=\"{name}\\n{title}\", tooltip=\"{detail}\"{style}];");
    }
    for (child, parent) in &piece.edges {
        let _ = writeln!(out, "  v{child} -> v{parent};");
    }
    out.push_str("}\n");
    out
}

/// For mermaid.
pub(super) fn mermaid(piece: &Piece) -> String {
    let mut out = String::from("flowchart TB\n");
    for (at, one) in piece.boxes.iter().enumerate() {
        let (open, close) = if one.goes_on { ("([", "])") } else { ("[", "]") };
        let _ = writeln!(out, "  v{at}{open}\"{}<br/>{}\"{close}", entities(&one.name), entities(&one.title));
    }
    for (child, parent) in &piece.edges {
        let _ = writeln!(out, "  v{child} --> v{parent}");
    }
    out
}

/// A picture.
pub(super) fn svg(piece: &Piece, places: &[Place]) -> String {
    let left = |place: &Place| MARGIN + place.half_column * (BOX_WIDTH + GAP_ACROSS) / 2;
    let top = |place: &Place| MARGIN + place.layer * (BOX_HEIGHT + GAP_DOWN);
    let width = places.iter().map(|place| left(place) + BOX_WIDTH).max().unwrap_or(0) + MARGIN;
    let height = places.iter().map(|place| top(place) + BOX_HEIGHT).max().unwrap_or(0) + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<style>rect{{fill:#f6f8fa;stroke:#57606a}}.on{{stroke-dasharray:4 3}}\
         path{{fill:none;stroke:#8c959f}}.name{{font-family:monospace;fill:#0550ae}}.title{{fill:#24292f}}</style>\n"
    );
    for &(child, parent) in &piece.edges {
        let (x1, y1) = (left(&places[child]) + BOX_WIDTH / 2, top(&places[child]) + BOX_HEIGHT);
        let (x2, y2) = (left(&places[parent]) + BOX_WIDTH / 2, top(&places[parent]));
        let bend = (y2 - y1) / 2;
        let _ = writeln!(out, "<path d=\"M{x1} {y1} C{x1} {} {x2} {} {x2} {y2}\"/>", y1 + bend, y2 - bend);
    }
    for (one, place) in piece.boxes.iter().zip(places) {
        let (x, y, middle) = (left(place), top(place), left(place) + BOX_WIDTH / 2);
        let class = if one.goes_on { " class=\"on\"" } else { "" };
        let (name, title, detail) = (entities(&one.name), entities(&one.title), entities(&one.detail));
        let _ = writeln!(
            out,
            "<g><title>{detail}</title><rect{class} x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\"/>\
             <text class=\"name\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{name}</text>\
             <text class=\"title\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{title}</text></g>",
            y + 17,
            y + 34
        );
    }
    out.push_str("</svg>\n");
    out
}

/// For a quoted string of dot.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

/// For XML, and for mermaid's quoted labels, which read the same entities.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Box, layout};
    use super::*;

    fn piece() -> Piece {
        let one = |name: &str, title: &str, goes_on| Box {
            name: name.to_owned(),
            title: title.to_owned(),
            detail: "detail".to_owned(),
            goes_on,
        };
        let boxes = vec![one("aa", "merge \"x\" <b> & \\n]] \u{7}", false), one("bb", "first", true)];
        Piece { boxes, edges: vec![(0, 1)] }
    }

    #[test]
    fn s1_1_8_drawings_stay_well_formed_whatever_a_vertex_says() {
        let piece = piece();
        let drawn = dot(&piece);
        assert!(drawn.contains(r#"label="aa\nmerge \"x\" <b> & \\n]]  ""#), "{drawn}");
        assert!(drawn.contains("v0 -> v1;") && drawn.contains("dashed"), "{drawn}");
        let drawn = mermaid(&piece);
        assert!(drawn.contains("v0[\"aa<br/>merge &quot;x&quot; &lt;b&gt; &amp; \\n]]  \"]"), "{drawn}");
        assert!(drawn.contains("v1([\"bb<br/>first\"])") && drawn.contains("v0 --> v1"), "{drawn}");
        let drawn = svg(&piece, &layout::place(&piece));
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert_eq!(drawn.matches("<path d").count(), 1);
        assert_eq!(drawn.matches('<').count(), drawn.matches('>').count());
        assert!(!drawn.contains("<b>") && drawn.ends_with("</svg>\n"), "{drawn}");
        assert!(svg(&Piece::default(), &[]).ends_with("</svg>\n"));
    }
}
