//! `mkimg sign`

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use mkimg_format::detached::Sealed;
use mkimg_format::hex;
use mkimg_format::trailer::Trailer;
use mkimg_mkfs::Output;
use mkimg_sign::attach::{attach, write};
use mkimg_sign::trust::{Sidecar, judge};
use mkimg_sign::{Certificate, Pkcs7, PrivateKey, Signature, Subject, files};
use mkimg_verify::{Options, Region, verify_image};
use serde::Serialize;

use crate::args::SignArgs;
use crate::image::{open_file, open_for_update, refuse_others};
use crate::output::{count, json_line, show, stdout};
use crate::progress::Bar;

#[derive(Serialize)]
struct Outcome {
    image: String,
    root_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<String>,
    attached: Vec<&'static str>,
    sidecars: Vec<String>,
}

pub(crate) fn run(args: &SignArgs) -> Result<ExitCode> {
    let certificate = args.cert.as_deref().map(one_certificate).transpose()?;
    if let Some(output) = &args.detached_digest {
        let (subject, _) = open(&args.image, &open_file(&args.image)?)?;
        let message =
            if certificate.is_some() { subject.root_text().into_bytes() } else { subject.message() };
        return replace(output, &message).map(|()| ExitCode::SUCCESS);
    }
    // Whether it may be written is better known before the long check than after it.
    let file = open_for_update(&args.image)?;
    // Two who sign at a time come one after the other, so none loses the signature of the other.
    file.lock().with_context(|| show(&args.image))?;
    let (signature, pkcs7, subject, trailer) = match (&args.attach_signature, &args.key) {
        (Some(made), key) => {
            let (subject, trailer) = open(&args.image, &file)?;
            let (signature, pkcs7) = made_elsewhere(made, key.as_deref(), certificate.as_ref(), &subject)
                .with_context(|| show(made))?;
            (signature, pkcs7, subject, trailer)
        }
        (None, Some(key)) => {
            let private = PrivateKey::read(&files::read(key)?).with_context(|| show(key))?;
            if certificate.as_ref().is_some_and(|certificate| certificate.key() != private.public()) {
                bail!("{}: the certificate is not of this key", show(key));
            }
            let (subject, trailer) = open(&args.image, &file)?;
            let pkcs7 = certificate
                .as_ref()
                .map(|certificate| Pkcs7::sign(&private, certificate, subject.root_text().as_bytes()));
            let pkcs7 = pkcs7.transpose().with_context(|| show(key))?;
            let bytes = private.sign(&subject.message()).with_context(|| show(key))?;
            (Some(Signature::new(private.public(), bytes)), pkcs7, subject, trailer)
        }
        (None, None) => bail!("no key"),
    };
    let attached = attach(&trailer, signature.as_ref(), pkcs7.as_ref());
    let mut sidecars = Vec::new();
    if let Some(signature) = signature.as_ref().filter(|_| args.sidecar || !attached.signature) {
        sidecars.push((beside(&args.image, ".sig"), signature.bytes.clone(), attached.signature));
    }
    if let Some(pkcs7) = pkcs7.as_ref().filter(|_| args.sidecar || !attached.pkcs7) {
        sidecars.push((beside(&args.image, ".p7s"), pkcs7.as_der().to_vec(), attached.pkcs7));
    }
    for (path, bytes, _) in &sidecars {
        replace(path, bytes)?;
    }
    write(&file, &attached.trailer).with_context(|| show(&args.image))?;

    let signer = pkcs7.as_ref().and(certificate.as_ref()).map(|certificate| certificate.subject().to_owned());
    let mut out = stdout();
    if args.json {
        let inside = [("signature", attached.signature), ("pkcs7", attached.pkcs7)];
        let outcome = Outcome {
            image: show(&args.image),
            root_hash: subject.root_text(),
            name: subject.statement.name,
            epoch: subject.statement.epoch,
            key_id: signature.map(|signature| signature.key.to_string()),
            signer,
            attached: inside.into_iter().filter_map(|(word, there)| there.then_some(word)).collect(),
            sidecars: sidecars.iter().map(|(path, ..)| show(path)).collect(),
        };
        json_line(&mut out, &outcome)?;
    } else {
        let image = show(&args.image);
        let name = subject.statement.name.as_deref().unwrap_or("-");
        let name = mkimg_format::erofs::escape(name.as_bytes());
        writeln!(
            out,
            "{image}: {name}, epoch {}, root hash {}",
            subject.statement.epoch,
            hex(&subject.root_hash)
        )?;
        if let Some(signature) = signature {
            writeln!(out, "{image}: signed by {} key {}", signature.kind, signature.key)?;
        }
        if let Some(signer) = signer {
            writeln!(out, "{image}: root hash signed by {signer} (PKCS#7)")?;
        }
        for (path, _, inside) in &sidecars {
            let note = if *inside { "" } else { ": for this the image itself has no room" };
            writeln!(out, "{}: written{note}", show(path))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Audits an image, and reads what is to be signed of it. A trailer that alone is damaged is made anew.
fn open(path: &Path, file: &File) -> Result<(Subject, Trailer)> {
    let name = || show(path);
    let sealed = Sealed::open(file).with_context(name)?;
    if sealed.is_detached() {
        bail!("{}: is a detached seal; sign the image, and cut its seal then", show(path));
    }
    if sealed.disk().is_some() {
        bail!("{}: is a disk with an image in it; sign the image, and export it then", show(path));
    }
    refuse_others(path, file)?;
    let bar = Bar::new();
    let advance = |done, total| bar.show("check", done, total);
    let options = Options { root_hash: None, threads: super::threads(None), progress: Some(&advance) };
    let report = verify_image(file, &options);
    bar.clear();
    let report = report.with_context(name)?;
    let is_trailer = report.findings.iter().all(|finding| finding.region == Region::Trailer);
    if !report.complete || report.truncated_findings > 0 || !is_trailer {
        let found = count(report.findings.len() as u64, "finding");
        bail!("{0}: is not signed, for it is damaged ({found}); see mkimg verify {0}", show(path));
    }
    let subject = Subject::read(file, report.root_hash).with_context(name)?;
    let fresh = Trailer::new(&subject.header, subject.root_hash);
    let trailer = Trailer::read(file).ok().filter(|trailer| trailer.same_tree(&fresh)).unwrap_or(fresh);
    Ok((subject, trailer))
}

/// Reads a signature that somebody else has made, and makes sure that it is one of this image.
fn made_elsewhere(
    made: &Path,
    key: Option<&Path>,
    certificate: Option<&Certificate>,
    subject: &Subject,
) -> Result<(Option<Signature>, Option<Pkcs7>)> {
    match Sidecar::read(&files::read(made)?) {
        Sidecar::Pkcs7(pkcs7) => {
            let pkcs7 = pkcs7?;
            let certificate = certificate.context("a PKCS#7 signature is checked with --cert")?;
            if !pkcs7.is_by(certificate) {
                bail!("names another signer than {}", certificate.subject());
            }
            match judge(&pkcs7, certificate, &subject.root_hash) {
                Some(problem) => Err(problem.into()),
                None => Ok((None, Some(pkcs7))),
            }
        }
        Sidecar::Raw(bytes) => {
            let key = match (key, certificate) {
                (Some(path), _) => files::public_key(path)?,
                (None, Some(certificate)) => certificate.key().clone(),
                (None, None) => bail!("a signature is checked with --key or --cert"),
            };
            if !key.verify(&subject.message(), &bytes) {
                return Err(anyhow!("is no signature of {} key {} over this image", key.kind(), key.id()));
            }
            Ok((Some(Signature::new(&key, bytes)), None))
        }
    }
}

fn one_certificate(path: &Path) -> Result<Certificate> {
    let mut found = files::certificates(path)?;
    match (found.pop(), found.is_empty()) {
        (Some(certificate), true) => Ok(certificate),
        _ => bail!("{}: has several certificates, and only one can be the signer's", show(path)),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let output = Output::create(path)?;
    let mut file = output.file();
    file.write_all(bytes).with_context(|| show(path))?;
    output.finish()?;
    Ok(())
}

fn beside(image: &Path, suffix: &str) -> PathBuf {
    let mut path: OsString = image.into();
    path.push(suffix);
    path.into()
}
