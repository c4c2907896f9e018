//! What mount(8) calls for `mount -t mkimg IMAGE DIRECTORY`, if it is installed as `/sbin/mount.mkimg`.
#![forbid(unsafe_code)]

use std::num::NonZeroUsize;
use std::process::ExitCode;

use mkimg_mount::options::{EXIT_FAILURE, HelperArgs, exit_code};
use mkimg_mount::{VerityPolicy, check_trusted, mount};

fn main() -> ExitCode {
    let args = match HelperArgs::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("mount.mkimg: {error}");
            return ExitCode::from(exit_code(&error));
        }
    };
    if args.fake {
        return ExitCode::SUCCESS;
    }
    let trust = match args.trust() {
        Ok(trust) => trust,
        Err(error) => {
            eprintln!("mount.mkimg: {error}");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut check = |file: &std::fs::File, policy: VerityPolicy| {
        check_trusted(file, policy, &trust, args.options.kernel_signature, threads, None)
            .map(|(checked, _)| checked)
    };
    match mount(&args.request(), &mut check) {
        Ok(mounted) => {
            if args.verbose {
                println!("mount.mkimg: {}: {}; {}", mounted.target.display(), mounted.how, mounted.guarantee);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mount.mkimg: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}
