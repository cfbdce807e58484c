// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// A token of ERC-20 with six digits, as far as paying with it goes. Small, for tests.
contract Coin {
    event Transfer(address indexed from, address indexed to, uint256 value);

    uint8 public constant decimals = 6;
    mapping(address => uint256) public balanceOf;

    constructor() {
        balanceOf[msg.sender] = 1_000_000 * 10 ** decimals;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        balanceOf[msg.sender] -= value;
        balanceOf[to] += value;
        emit Transfer(msg.sender, to, value);
        return true;
    }
}
