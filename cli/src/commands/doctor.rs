//! placeholder
pub(crate) fn run(_: &crate::args::DoctorArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not yet") }
