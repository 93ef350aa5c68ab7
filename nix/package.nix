{
  lib,
  stdenv,
  buildGoModule,
  installShellFiles,
  version ? "dev",
}:

buildGoModule {
  pname = "nixfleet-agent";
  inherit version;

  # Whole, because the hash below is of what all packages of the module import.
  src = lib.cleanSource ../.;

  # The hash of what `go mod vendor` makes, as tools/vendor-hash computes it from
  # go.sum without building anything; `make nix` fails while it is out of date.
  vendorHash = lib.fileContents ./vendor-hash.txt;

  subPackages = [ "cmd/nixfleet-agent" ];

  # As in the Makefile, which says why.
  env.CGO_ENABLED = 0;
  tags = [ "nethttpomithttp2" ];
  ldflags = [
    "-s"
    "-w"
    "-X main.version=${version}"
  ];

  nativeBuildInputs = [ installShellFiles ];

  # Completions and man pages are printed by the program itself, built once more for the latter; a cross build can run neither.
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd nixfleet-agent \
      --bash <($out/bin/nixfleet-agent completion bash) \
      --fish <($out/bin/nixfleet-agent completion fish) \
      --zsh <($out/bin/nixfleet-agent completion zsh)
    go run -tags nethttpomithttp2,man ./cmd/nixfleet-agent man man8
    installManPage man8/*
  '';

  meta = {
    description = "Brings a NixOS host to a target closure and proves it";
    homepage = "https://github.com/nixfleet/nixfleet-agent";
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
    mainProgram = "nixfleet-agent";
  };
}
