//! Rectangles whose areas are in proportion to weights, as close to squares as can be.
//!
//! Bruls, Huizing, van Wijk: Squarified Treemaps (2000). Rectangles are laid in rows along the shorter side of what is
//! left; a row grows for as long as its worst rectangle gets no longer.

/// A rectangle; y counts downwards.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rect {
    /// Left side.
    pub x: f64,
    /// Upper side.
    pub y: f64,
    /// Not negative.
    pub width: f64,
    /// Not negative.
    pub height: f64,
}

impl Rect {
    /// Width times height.
    #[must_use]
    pub fn area(&self) -> f64 {
        self.width * self.height
    }

    /// What is left when a strip is taken away on each side; empty if there is not so much.
    #[must_use]
    pub fn inset(&self, top: f64, rest: f64) -> Self {
        Self {
            x: self.x + rest.min(self.width / 2.0),
            y: self.y + top.min(self.height),
            width: (self.width - 2.0 * rest).max(0.0),
            height: (self.height - top - rest).max(0.0),
        }
    }
}

/// A rectangle for each weight, in their order; together they fill `within`.
///
/// Weights should come in descending order: that gives the best shapes. A weight of 0 gets an empty rectangle.
#[must_use]
pub fn squarify(weights: &[u64], within: Rect) -> Vec<Rect> {
    let total: f64 = weights.iter().map(|weight| float(*weight)).sum();
    if total <= 0.0 {
        return vec![Rect { width: 0.0, height: 0.0, ..within }; weights.len()];
    }
    let scale = within.area() / total;
    let areas: Vec<f64> = weights.iter().map(|weight| float(*weight) * scale).collect();
    let mut free = within;
    let mut placed = Vec::with_capacity(areas.len());
    let mut rest = &areas[..];
    while !rest.is_empty() {
        let length = row_length(rest, free.width.min(free.height));
        let (row, after) = rest.split_at(length);
        free = place(row, free, after.is_empty(), &mut placed);
        rest = after;
    }
    placed
}

/// How many of `areas`, one at least, make the best row along a side.
fn row_length(areas: &[f64], side: f64) -> usize {
    let (mut sum, mut least, mut most) = (0.0, f64::INFINITY, 0.0_f64);
    let mut best = f64::INFINITY;
    for (length, area) in areas.iter().enumerate() {
        sum += area;
        least = least.min(*area);
        most = most.max(*area);
        // The longest side ratio in a row of this sum: its thickness is sum / side.
        let worst = (side * side * most / (sum * sum)).max(sum * sum / (side * side * least));
        if worst > best && length > 0 {
            return length;
        }
        best = worst;
    }
    areas.len()
}

/// Lays a row along the shorter side of `free`, and returns what is left of it. The last row takes all there is.
fn place(row: &[f64], free: Rect, is_last: bool, placed: &mut Vec<Rect>) -> Rect {
    let sum: f64 = row.iter().sum();
    let lies = free.height > free.width;
    let (side, depth) = if lies { (free.width, free.height) } else { (free.height, free.width) };
    let thickness = if is_last {
        depth
    } else if side > 0.0 {
        (sum / side).min(depth)
    } else {
        0.0
    };
    let mut at = 0.0;
    for area in row {
        let length = if sum > 0.0 { (side * area / sum).min(side - at).max(0.0) } else { 0.0 };
        placed.push(if lies {
            Rect { x: free.x + at, y: free.y, width: length, height: thickness }
        } else {
            Rect { x: free.x, y: free.y + at, width: thickness, height: length }
        });
        at += length;
    }
    if lies {
        Rect { y: free.y + thickness, height: free.height - thickness, ..free }
    } else {
        Rect { x: free.x + thickness, width: free.width - thickness, ..free }
    }
}

/// Exact below 2^53 bytes, and close enough above.
#[expect(clippy::cast_precision_loss, reason = "nobody sees the difference")]
fn float(weight: u64) -> f64 {
    weight as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: Rect = Rect { x: 10.0, y: 20.0, width: 600.0, height: 400.0 };

    /// The example of the paper: 6 6 4 3 2 2 1 in 6 by 4.
    #[test]
    fn the_example_of_the_paper() {
        let within = Rect { x: 0.0, y: 0.0, width: 6.0, height: 4.0 };
        let found = squarify(&[6, 6, 4, 3, 2, 2, 1], within);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let wanted = [
            (0.0, 0.0, 3.0, 2.0),
            (0.0, 2.0, 3.0, 2.0),
            (3.0, 0.0, 12.0 / 7.0, 7.0 / 3.0),
            (3.0 + 12.0 / 7.0, 0.0, 9.0 / 7.0, 7.0 / 3.0),
            (3.0, 7.0 / 3.0, 1.2, 5.0 / 3.0),
        ];
        for (rect, (x, y, width, height)) in found.iter().zip(wanted) {
            assert!(
                near(rect.x, x) && near(rect.y, y) && near(rect.width, width) && near(rect.height, height),
                "{found:?}"
            );
        }
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(squarify(&[], PAGE).is_empty());
        assert!(squarify(&[0, 0], PAGE).iter().all(|rect| rect.area() == 0.0));
        let line = Rect { width: 0.0, ..PAGE };
        assert!(squarify(&[3, 2, 1], line).iter().all(|rect| rect.area() == 0.0));
        for rect in [PAGE.inset(500.0, 1.0), PAGE.inset(1.0, 500.0)] {
            assert!(rect.width >= 0.0 && rect.height >= 0.0 && rect.area() == 0.0, "{rect:?}");
        }
    }

    proptest! {
        #[test]
        fn areas_are_weights_and_nothing_overlaps(mut weights in prop::collection::vec(0_u64..1 << 40, 1..60), sorted: bool) {
            if sorted {
                weights.sort_unstable();
                weights.reverse();
            }
            let total: u64 = weights.iter().sum();
            prop_assume!(total > 0);
            let found = squarify(&weights, PAGE);
            prop_assert_eq!(found.len(), weights.len());
            let slack = 1e-6;
            for (rect, weight) in found.iter().zip(&weights) {
                let wanted = PAGE.area() * float(*weight) / float(total);
                prop_assert!((rect.area() - wanted).abs() <= slack * PAGE.area(), "{rect:?} for {wanted}");
                prop_assert!(rect.x >= PAGE.x - slack && rect.x + rect.width <= PAGE.x + PAGE.width + slack);
                prop_assert!(rect.y >= PAGE.y - slack && rect.y + rect.height <= PAGE.y + PAGE.height + slack);
            }
            for (index, a) in found.iter().enumerate() {
                for b in &found[..index] {
                    let wide = (a.x + a.width).min(b.x + b.width) - a.x.max(b.x);
                    let high = (a.y + a.height).min(b.y + b.height) - a.y.max(b.y);
                    prop_assert!(wide <= slack || high <= slack, "{a:?} and {b:?}");
                }
            }
        }
    }
}
