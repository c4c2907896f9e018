//! placeholder
pub(crate) fn run(_: &crate::args::MountArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not yet") }
pub(crate) fn umount(_: &crate::args::UmountArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not yet") }
pub(crate) fn list(_: &crate::args::MountsArgs) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("not yet") }
