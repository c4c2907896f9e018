//! placeholder
pub(crate) fn run(_: &crate::args::VerifyArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not yet") }
