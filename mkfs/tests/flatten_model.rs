//! Random layers through the builder, compared with a model that follows the rules word by word.
//!
//! `MKIMG_MODEL_CASES` asks for more cases, `MKIMG_MODEL_SEED` for other ones.
#![allow(clippy::unwrap_used)]

mod layers;
mod tar_writer;

use layers::{Layer, build_layers, generate, listing, model, scratch};
use mkimg_format::erofs::escape;
use mkimg_format::header::Header;
use mkimg_format::seal::Seal;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn check(layers: &[Layer]) -> Result<(), TestCaseError> {
    let expected = model::flatten(layers);
    assert!(expected.unclear.is_empty());
    let dir = scratch();
    let (built, image) = match (build_layers(dir.path(), layers), expected.errors.first()) {
        (Ok(done), None) => done,
        (Ok(_), Some(error)) => return Err(TestCaseError::fail(format!("no error, but {error:?}"))),
        (Err(error), None) => return Err(TestCaseError::fail(error)),
        (Err(error), Some(((layer, index), rule))) => {
            let place = format!("layer {}: {}: ", layer + 1, layers[*layer][*index].shown());
            prop_assert!(error.starts_with(&place), "{error}\nis not about {place}{rule}");
            return Ok(());
        }
    };
    let differences = listing::differences(&expected.tree, &listing::read_image(&image));
    prop_assert!(differences.is_empty(), "{differences}");

    let bytes = std::fs::read(&image).unwrap();
    let options = mkimg_verify::Options { root_hash: Some(built.root_hash), ..Default::default() };
    let report = mkimg_verify::verify_image(&bytes, &options).unwrap();
    prop_assert!(report.is_clean(), "{:?}", report.findings);
    // Other xattrs than these are left out or named because Linux does not show them.
    let dropped =
        built.warnings.iter().filter(|warning| warning.ends_with(" of overlayfs is dropped")).count();
    prop_assert_eq!(dropped, expected.warnings);

    check_books(&bytes, &expected)
}

/// The seal's account of what each layer ships and what becomes of it.
fn check_books(bytes: &[u8], expected: &model::Outcome) -> Result<(), TestCaseError> {
    let header = Header::read(bytes).unwrap();
    let seal = Seal::open(bytes, &header).unwrap();
    prop_assert_eq!(seal.layers().len(), expected.books.len() as u64);
    for (index, books) in (0..).zip(&expected.books) {
        let record = seal.layers().get(index).unwrap().unwrap();
        let found = model::Books {
            shipped: (record.shipped.get(), record.shipped_files.get()),
            visible: (record.visible.get(), record.visible_files.get()),
            shadowed: (record.shadowed.get(), record.shadowed_files.get()),
            deleted: (record.deleted.get(), record.deleted_files.get()),
        };
        prop_assert_eq!(found, *books, "layer {}", index + 1);
        prop_assert_eq!(found.shipped.0, found.visible.0 + found.shadowed.0 + found.deleted.0);
        prop_assert_eq!(found.shipped.1, found.visible.1 + found.shadowed.1 + found.deleted.1);
    }
    let mut left = expected.deleted.clone();
    for index in 0..seal.deleted().len() {
        let record = seal.deleted().get(index).unwrap().unwrap();
        let path = seal.deleted_path(&record).unwrap();
        let fits = |deleted: &model::Deleted| {
            deleted.names.contains(&path)
                && deleted.size == record.size.get()
                && deleted.layer == record.layer.get() as usize
                && deleted.by == record.deleted_by.get() as usize
        };
        let Some(at) = left.iter().position(fits) else {
            return Err(TestCaseError::fail(format!("not deleted: {} {record:?}", escape(&path))));
        };
        left.remove(at);
    }
    prop_assert!(left.is_empty(), "deleted without a record: {left:?}");
    Ok(())
}

#[test]
fn random_layers_become_what_the_rules_say() {
    let cases = u32::try_from(number("MKIMG_MODEL_CASES", 600)).unwrap();
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(number("MKIMG_MODEL_SEED", 1)),
        failure_persistence: None,
        max_shrink_iters: 3000,
        ..Config::default()
    };
    let strategy = (generate::layers(), prop::bool::weighted(0.15))
        .prop_map(|(layers, keep_error)| model::settle(layers, keep_error));
    if let Err(error) = TestRunner::new(config).run(&strategy, |layers| check(&layers)) {
        panic!("{error}");
    }
}

/// A model that never meets the interesting cases proves little.
#[test]
fn random_layers_are_worth_the_while() {
    let config = Config { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let strategy = generate::layers();
    let mut found = [0_usize; 7];
    for _ in 0..300 {
        let tree = strategy.new_tree(&mut runner).unwrap();
        let case = proptest::strategy::ValueTree::current(&tree);
        let broken = model::flatten(&model::settle(case.clone(), true));
        found[0] += usize::from(!broken.errors.is_empty());
        let outcome = model::flatten(&model::settle(case, false));
        found[1] += outcome.deleted.len();
        found[2] += outcome.books.iter().filter(|books| books.shadowed.1 > 0).count();
        let is_link = |seen: &&listing::Seen| seen.what != listing::What::Dir && seen.nlink > 1;
        found[3] += outcome.tree.values().filter(is_link).count();
        found[4] +=
            outcome.tree.values().filter(|seen| matches!(seen.what, listing::What::Symlink(_))).count();
        found[5] +=
            outcome.tree.keys().filter(|path| path.iter().filter(|byte| **byte == b'/').count() > 3).count();
        found[6] += outcome.tree.values().filter(|seen| !seen.xattrs.is_empty()).count();
    }
    assert!(found.iter().all(|count| *count >= 90), "{found:?}");
}
