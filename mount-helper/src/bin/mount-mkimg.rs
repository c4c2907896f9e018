//! What mount(8) calls for `mount -t mkimg IMAGE DIRECTORY`, if it is installed as `/sbin/mount.mkimg`.
#![forbid(unsafe_code)]

use std::num::NonZeroUsize;
use std::process::ExitCode;

use mkimg_mount::options::{HelperArgs, exit_code};
use mkimg_mount::{VerityPolicy, check_image, mount};

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
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let root_hash = args.options.root_hash;
    let mut check =
        |file: &std::fs::File, policy: VerityPolicy| check_image(file, policy, root_hash, threads, None);
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
