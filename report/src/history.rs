//! Which command made which layer, as the configuration of the source tells.

use mkimg_format::seal::{Seal, Section};
use mkimg_format::{ReadAt, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    history: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    created_by: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

/// Commands of `layers` layers, lowest first. A history that does not fit says nothing: it is optional, and nobody
/// checks it.
pub(crate) fn commands<R: ReadAt>(seal: &Seal<R>, layers: usize) -> Result<Vec<Option<String>>> {
    let config = seal.document(Section::Config)?.unwrap_or_default();
    Ok(parse(&config, layers))
}

fn parse(config: &[u8], layers: usize) -> Vec<Option<String>> {
    let history = serde_json::from_slice::<Config>(config).map(|config| config.history).unwrap_or_default();
    let steps: Vec<_> = history
        .into_iter()
        .filter(|step| !step.empty_layer)
        .map(|step| step.created_by.as_deref().map(plain))
        .collect();
    if steps.len() == layers { steps } else { vec![None; layers] }
}

/// Without what builders put around each command.
fn plain(command: &str) -> String {
    let command = command.trim();
    let command = command.strip_prefix("/bin/sh -c ").unwrap_or(command);
    let command = command.strip_prefix("#(nop)").unwrap_or(command);
    command.strip_suffix("# buildkit").unwrap_or(command).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_belong_to_layers() {
        let config = br#"{"history":[{"created_by":"/bin/sh -c #(nop) ADD file:1 in / "},
            {"created_by":"CMD [\"sh\"]","empty_layer":true},{"created_by":"RUN make # buildkit"},{}]}"#;
        let wanted = [Some("ADD file:1 in /".to_owned()), Some("RUN make".to_owned()), None];
        assert_eq!(parse(config, 3), wanted);
        for (config, layers) in [(&config[..], 2), (b"{}", 1), (b"[1", 2), (b"", 0), (br#"{"history":7}"#, 1)]
        {
            assert_eq!(parse(config, layers), vec![None; layers]);
        }
    }
}
