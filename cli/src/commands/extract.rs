//! placeholder
pub(crate) fn run(_: &crate::args::ExtractArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not yet")
}
