{
  description = "The agent that brings a NixOS host to a target closure and proves it";

  # Any nixpkgs whose default Go is at least the one that go.mod names.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      version = self.shortRev or self.dirtyShortRev or "dev";
    in
    {
      packages = forEachSystem (pkgs: rec {
        nixfleet-agent = pkgs.callPackage ./nix/package.nix { inherit version; };
        default = nixfleet-agent;
      });

      overlays.default = final: _prev: {
        nixfleet-agent = final.callPackage ./nix/package.nix { inherit version; };
      };

      # The module alone asks for pkgs.nixfleet-agent; this one brings the package along.
      nixosModules.default =
        { lib, pkgs, ... }:
        {
          imports = [ ./nix/module.nix ];
          services.nixfleet-agent.package =
            lib.mkDefault
              self.packages.${pkgs.stdenv.hostPlatform.system}.nixfleet-agent;
        };

      # The same golden files as `make nix`, but with the library of nixpkgs.
      checks = forEachSystem (
        pkgs:
        let
          tests = import ./nix/tests {
            inherit lib;
            inherit (pkgs) formats;
          };
        in
        {
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) nixfleet-agent;
          module =
            if tests.mismatches == [ ] then
              pkgs.emptyFile
            else
              throw "differs from its golden file: ${toString tests.mismatches}";
        }
      );

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.go
            pkgs.gcc
            pkgs.gnumake
          ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt);
    };
}
